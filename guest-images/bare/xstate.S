# xstate: extended state of the processor that must continue without a seam. Every round fills all vector registers, and
# masks and protection keys where the processor has them, with values that follow from the round; they stay there while
# the round's line is printed and paced; then all are compared.
#
# Parameters: limit= lines, 0 = for ever, us= and khz= to pace the lines.
# Lines: `ready=HEX`, the states that are used, as bits of XCR0 (4 AVX, e0 AVX-512, 200 protection keys); then
# `count=HEX`, one by one. `CORRUPT index=HEX value=HEX expected=HEX` and the end if a word of a register is another one;
# words are counted from the first vector register, masks follow as words 256 to 263, protection keys are word 264.
# `ERROR states=HEX` if the processor has no AVX.
#
# Registers: RBX round, R12 states, R14 lines left, RBP the factor.

    .equ XCR0_AVX,     0x004
    .equ XCR0_AVX512,  0x0e0
    .equ XCR0_PKRU,    0x200
    .equ XCR0_USED,    0x2e7
    .equ CR4_OSXSAVE,  1 << 18
    .equ CR4_PKE,      1 << 22
    .equ LEAF_7_PKU,   1 << 3           # in ECX
    .equ FACTOR,       0x9e3779b97f4a7c15
    .equ VECTOR_WORDS, 32 * 8
    .equ MASK_AT,      VECTOR_WORDS * 8
    .equ KEYS_AT,      MASK_AT + 8 * 8
    .equ WORDS,        VECTOR_WORDS + 8 + 1

    .text
    .code64
    .globl guest_main
guest_main:
    call turn_on
    call enter_user
    call pace_init
    leaq key_limit(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, %r14
    movabsq $FACTOR, %rbp
    leaq text_ready(%rip), %rdi
    movq %r12, %rsi
    call put_line
    xorl %ebx, %ebx
    call load
line:
    call compare
    incq %rbx
    call load
    leaq text_count(%rip), %rdi
    movq %rbx, %rsi
    call put_line
    call pace_wait
    decq %r14                           # from 0 it takes 2^64 lines to come back to 0
    jnz line
    call compare
    jmp finish

# At CPL 0. Out: R12 = states that are on.
turn_on:
    movl $0xd, %eax
    xorl %ecx, %ecx
    cpuid
    andl $XCR0_USED, %eax
    movl %eax, %r12d
    andl $XCR0_AVX512, %eax
    cmpl $XCR0_AVX512, %eax
    je 1f
    andl $~XCR0_AVX512, %r12d
1:  movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    testl $LEAF_7_PKU, %ecx
    jnz 2f
    andl $~XCR0_PKRU, %r12d
2:  testl $XCR0_AVX, %r12d
    jz 4f
    movq %cr4, %rax
    orl $CR4_OSXSAVE, %eax
    testl $XCR0_PKRU, %r12d
    jz 3f
    orl $CR4_PKE, %eax
3:  movq %rax, %cr4
    movl %r12d, %eax
    xorl %ecx, %ecx
    xorl %edx, %edx
    xsetbv
    ret
4:  leaq text_error(%rip), %rdi
    movl %r12d, %esi
    call put_line
    jmp power_off

# Words of this round, and the registers from them.
load:
    leaq 1(%rbx), %rax
    imulq %rbp, %rax
    xorl %ecx, %ecx
1:  movq %rax, image(, %rcx, 8)
    incq %rax
    incl %ecx
    cmpl $WORDS, %ecx
    jb 1b
    testl $XCR0_AVX512, %r12d
    jz 2f
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    vmovdqu64 image + \n * 64, %zmm\n
    .endr
    .irp n, 0,1,2,3,4,5,6,7
    kmovw image + MASK_AT + \n * 8, %k\n
    .endr
    jmp 3f
2:  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    vmovdqu image + \n * 32, %ymm\n
    .endr
3:  testl $XCR0_PKRU, %r12d
    jz 4f
    movl image + KEYS_AT, %eax
    andl $~3, %eax                      # all pages have key 0
    xorl %ecx, %ecx
    xorl %edx, %edx
    wrpkru
4:  ret

# The registers against the words. What is not on is not looked at.
compare:
    movl $16 * 4, %r8d                  # words to compare
    testl $XCR0_AVX512, %r12d
    jz 1f
    movl $VECTOR_WORDS, %r8d
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    vmovdqu64 %zmm\n, seen + \n * 64
    .endr
    .irp n, 0,1,2,3,4,5,6,7
    kmovw %k\n, seen + MASK_AT + \n * 8
    .endr
    jmp 2f
1:  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    vmovdqu %ymm\n, seen + \n * 32
    .endr
2:  xorl %ecx, %ecx
3:  movq image(, %rcx, 8), %rdx
    movq seen(, %rcx, 8), %rax
    cmpq %rdx, %rax
    jne corrupt
    incl %ecx
    cmpl %r8d, %ecx
    jb 3b
    testl $XCR0_AVX512, %r12d
    jz 5f
    movl $VECTOR_WORDS, %ecx
4:  movzwl image(, %rcx, 8), %edx
    movzwl seen(, %rcx, 8), %eax
    cmpl %edx, %eax
    jne corrupt
    incl %ecx
    cmpl $VECTOR_WORDS + 8, %ecx
    jb 4b
5:  testl $XCR0_PKRU, %r12d
    jz 6f
    xorl %ecx, %ecx
    rdpkru
    movl image + KEYS_AT, %edx
    andl $~3, %edx
    movl $VECTOR_WORDS + 8, %ecx
    cmpl %edx, %eax
    jne corrupt
6:  ret

# In: RCX = word, RAX = what is there, RDX = what must be.
corrupt:
    pushq %rdx
    pushq %rax
    leaq text_corrupt(%rip), %rdi
    movq %rcx, %rsi
    call put_field
    leaq text_value(%rip), %rdi
    popq %rsi
    call put_field
    leaq text_expected(%rip), %rdi
    popq %rsi
    call put_line
    jmp power_off

    .section .rodata
key_limit:     .asciz "limit="
text_ready:    .asciz "ready="
text_count:    .asciz "count="
text_error:    .asciz "ERROR states="
text_corrupt:  .asciz "CORRUPT index="
text_value:    .asciz " value="
text_expected: .asciz " expected="

    .bss
    .balign 64
image: .skip WORDS * 8
    .balign 64
seen:  .skip WORDS * 8
