# FNV-1a, 64 bits, over bytes.

    .equ FNV_PRIME, 0x100000001b3

    .text
    .code64
    .globl fnv1a
# In: RAX = state so far (fnv_start at first), RDI = bytes, ECX = how many. Out: RAX. Clobbers RCX, RDX, RSI, RDI.
fnv1a:
    movabsq $FNV_PRIME, %rdx
    testl %ecx, %ecx
    jz 2f
1:  movzbl (%rdi), %esi
    xorq %rsi, %rax
    imulq %rdx, %rax
    incq %rdi
    decl %ecx
    jnz 1b
2:  ret

    .section .rodata
    .balign 8
    .globl fnv_start
fnv_start: .quad 0xcbf29ce484222325
