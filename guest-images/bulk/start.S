# The way into Rust: CPL 3, a stack that is large enough, and the four functions that the compiler expects to find.

    .equ RUST_STACK_BYTES, 0x40000

    .text
    .code64
    .globl guest_main
guest_main:
    call enter_user
    leaq rust_stack_end(%rip), %rsp
    call bulk_main
    ud2                                 # it does not return

    .globl memcpy
memcpy:
    movq %rdi, %rax
    movq %rdx, %rcx
    rep movsb
    ret

    .globl memmove
memmove:
    movq %rdi, %rax
    movq %rdx, %rcx
    movq %rdi, %rdx
    subq %rsi, %rdx
    cmpq %rcx, %rdx                     # unsigned: only a destination within the source goes backwards
    jb 1f
    rep movsb
    ret
1:  leaq -1(%rdi, %rcx), %rdi
    leaq -1(%rsi, %rcx), %rsi
    std
    rep movsb
    cld
    ret

    .globl memset
memset:
    movq %rdi, %r8
    movl %esi, %eax
    movq %rdx, %rcx
    rep stosb
    movq %r8, %rax
    ret

    .globl memcmp
    .globl bcmp
memcmp:
bcmp:
    movq %rdx, %rcx
    xorl %eax, %eax
    cmpq %rax, %rcx                     # equal if there is nothing to compare
    repe cmpsb
    je 1f
    movzbl -1(%rdi), %ecx
    movzbl -1(%rsi), %eax
    subl %ecx, %eax
1:  ret

# The precompiled core library names these; nothing unwinds here.
    .globl rust_eh_personality
    .globl _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
    ud2

    .bss
    .balign 0x1000
    .skip RUST_STACK_BYTES
rust_stack_end:
