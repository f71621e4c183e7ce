# Parameters: `key=value` words of the kernel command line. Values are decimal or 0x… hexadecimal numbers.
# A word that does not parse ends the number at the first strange byte; a missing key gives the default.

    .equ START_INFO_CMDLINE, 24

    .text
    .code64
    .globl param
# In: RDI = "key=" (zero-terminated), RSI = default. Out: RAX. Clobbers RCX, RDX, RSI, RDI, R8.
param:
    call find_value
    testq %rdi, %rdi
    jz 1f
    jmp parse_number
1:  movq %rsi, %rax
    ret

    .globl param_ipv4
# In: RDI = "key=", RSI = default in host order. Out: RAX = a.b.c.d with a in bits 24 to 31.
param_ipv4:
    call find_value
    testq %rdi, %rdi
    jz 3f
    xorl %r9d, %r9d
    movl $4, %r10d
1:  call parse_number
    shll $8, %r9d
    movzbl %al, %eax
    orl %eax, %r9d
    decl %r10d
    jz 2f
    cmpb $'.', (%rdi)
    jne 2f
    incq %rdi
    jmp 1b
2:  movl %r9d, %eax
    ret
3:  movq %rsi, %rax
    ret

# In: RDI = "key=". Out: RDI = first byte of the value, or 0. Keeps RSI. Clobbers RAX, RCX, RDX, R8.
find_value:
    movl start_info, %eax
    testl %eax, %eax
    jz 4f
    movq START_INFO_CMDLINE(%rax), %rdx
    testq %rdx, %rdx
    jz 4f
1:  cmpb $0, (%rdx)                     # at the start of a word, or on blanks before one
    je 4f
    movq %rdi, %rcx
    movq %rdx, %r8
2:  movb (%rcx), %al
    testb %al, %al
    jz 5f
    cmpb %al, (%r8)
    jne 3f
    incq %rcx
    incq %r8
    jmp 2b
3:  movb (%rdx), %al                    # next word
    testb %al, %al
    jz 4f
    incq %rdx
    cmpb $' ', %al
    jne 3b
    jmp 1b
4:  xorl %edi, %edi
    ret
5:  movq %r8, %rdi
    ret

# In: RDI = text. Out: RAX = number, RDI = first byte behind it. Clobbers RCX, RDX, R8.
parse_number:
    xorl %eax, %eax
    movl $10, %ecx
    cmpb $'0', (%rdi)
    jne 1f
    cmpb $'x', 1(%rdi)
    jne 1f
    movl $16, %ecx
    addq $2, %rdi
1:  movzbl (%rdi), %edx
    subl $'0', %edx
    jb 3f
    cmpl $10, %edx
    jb 2f
    orl $0x20, %edx                     # lower case; 'a' - '0' = 0x31
    subl $'a' - '0' - 10, %edx
    cmpl $10, %edx
    jb 3f
2:  cmpl %ecx, %edx
    jae 3f
    imulq %rcx, %rax
    addq %rdx, %rax
    incq %rdi
    jmp 1b
3:  ret
