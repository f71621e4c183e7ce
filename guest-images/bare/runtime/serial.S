# Text on COM1, polled, usable at either level. Every function keeps RBX, RBP and R12 to R15.

    .equ COM1,          0x3f8
    .equ COM1_LSR,      COM1 + 5
    .equ LSR_THR_EMPTY, 1 << 5

    .text
    .code64
    .globl put_char
# In: AL. Clobbers RAX, RCX, RDX.
put_char:
    movl %eax, %ecx
    movl $COM1_LSR, %edx
1:  inb %dx, %al
    testb $LSR_THR_EMPTY, %al
    jz 1b
    movl $COM1, %edx
    movl %ecx, %eax
    outb %al, %dx
    ret

    .globl put_string
# In: RDI = zero-terminated text. Clobbers RAX, RCX, RDX, RDI.
put_string:
1:  movb (%rdi), %al
    testb %al, %al
    jz 2f
    incq %rdi
    call put_char
    jmp 1b
2:  ret

    .globl put_hex
# In: RSI = number, printed as 16 digits. Clobbers RAX, RCX, RDX, RSI, RDI.
put_hex:
    movl $16, %edi
1:  rolq $4, %rsi
    movl %esi, %eax
    andl $15, %eax
    movb hex_digits(%rax), %al
    call put_char
    decl %edi
    jnz 1b
    ret

    .globl put_field
# In: RDI = "name=", RSI = number.
put_field:
    pushq %rsi
    call put_string
    popq %rsi
    jmp put_hex

    .globl put_newline
put_newline:
    movb $'\n', %al
    jmp put_char

    .globl put_line
# In: RDI = "name=", RSI = number. One whole line.
put_line:
    call put_field
    jmp put_newline

    .section .rodata
hex_digits: .ascii "0123456789abcdef"
