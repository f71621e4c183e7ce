# spin: a pure CPU loop at CPL 3. Touches no memory and does no I/O between two reports.
#
# Parameters: report= turns of the loop per line (default 2^28), limit= lines, 0 = for ever.
# Lines: `loops=HEX tsc=HEX`, turns made so far and the TSC when the line began. Lost guest work = turns missing
# against an undisturbed run of the same length.

    .text
    .code64
    .globl guest_main
guest_main:
    call enter_user
    leaq key_report(%rip), %rdi
    movl $1 << 28, %esi
    call param
    movq %rax, %r12
    leaq key_limit(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, %r13
    xorl %ebx, %ebx
report:
    movq %r12, %rcx
    addq %r12, %rbx
    .balign 16
1:  decq %rcx
    jnz 1b
    call read_tsc
    movq %rax, %r14
    leaq text_loops(%rip), %rdi
    movq %rbx, %rsi
    call put_field
    leaq text_tsc(%rip), %rdi
    movq %r14, %rsi
    call put_line
    decq %r13                           # from 0 it takes 2^64 lines to come back to 0
    jnz report
    jmp finish

    .section .rodata
key_report: .asciz "report="
key_limit:  .asciz "limit="
text_loops: .asciz "loops="
text_tsc:   .asciz " tsc="
