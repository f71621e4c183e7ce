# smp: several processors that count at once and can tell if one of them was put back without the others.
#
# The first processor starts the others by INIT and SIPI; then all run at CPL 3. Every turn, a processor increments
# its own count and then the common one (locked). So at any instant the common count is the sum of the own counts,
# less at most one for each processor between its two steps: the first checks that every turn. Before each line it
# puts a question number to each of the others and waits until each has taken it over.
#
# Parameters: cpus= processors to wait for, 2 to 4 (default 2), every= turns of the first processor per line
# (default 1,000,000), limit= lines, 0 = for ever.
# Lines: `cpus=HEX` once all are there; then `round=HEX common=HEX`, rounds one by one; `CORRUPT common=HEX low=HEX
# high=HEX` and the end if the common count is outside what the own counts allow.
#
# Registers of the first processor: RBX round, R12 turns per line, R13 lines left, R14 processors.

    .include "layout.inc"

    .equ CPU_SHIFT,    7                # one processor's cells: own count, question taken over
    .equ CPU_OWN,      0
    .equ CPU_ANSWER,   64

    .text
    .code64
    .globl guest_main
guest_main:
    leaq key_cpus(%rip), %rdi
    movl $2, %esi
    call param
    movq %rax, %r14
    leaq -2(%rax), %rdx
    cmpq $CPUS_MAX - 2, %rdx
    ja bad_cpus
    leaq key_every(%rip), %rdi
    movl $1000000, %esi
    call param
    movq %rax, %r12
    leaq key_limit(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, %r13
    call start_others
    call enter_user
    leaq text_cpus(%rip), %rdi
    movl arrived, %esi
    call put_line
    xorl %ebx, %ebx
line:
    movq %r12, %r15
1:  incq cells + CPU_OWN
    lock incq common
    call check
    decq %r15
    jnz 1b
    incq %rbx
    call ask_others
    leaq text_round(%rip), %rdi
    movq %rbx, %rsi
    call put_field
    leaq text_common(%rip), %rdi
    movq common, %rsi
    call put_line
    decq %r13                           # from 0 it takes 2^64 lines to come back to 0
    jnz line
    jmp finish
bad_cpus:
    leaq text_bad_cpus(%rip), %rdi
    movq %rax, %rsi
    call put_line
    jmp power_off

# Own counts before the common one give the lower bound, own counts after it the upper.
check:
    call sum_own
    movq %rax, %r8
    movq common, %r9
    call sum_own
    movq %rax, %r10
    leaq 1(%r8), %rcx                   # low = before - (processors - 1)
    subq %r14, %rcx
    cmpq %rcx, %r9
    jl corrupt
    cmpq %r10, %r9
    jg corrupt
    ret
corrupt:
    movq %r10, %r14
    movq %rcx, %r13
    leaq text_corrupt(%rip), %rdi
    movq %r9, %rsi
    call put_field
    leaq text_low(%rip), %rdi
    movq %r13, %rsi
    call put_field
    leaq text_high(%rip), %rdi
    movq %r14, %rsi
    call put_line
    jmp power_off

# Out: RAX = sum of the own counts of all processors. Clobbers RCX, RDX.
sum_own:
    xorl %eax, %eax
    xorl %ecx, %ecx
1:  movl %ecx, %edx
    shll $CPU_SHIFT, %edx
    addq cells + CPU_OWN(%rdx), %rax
    incl %ecx
    cmpl %r14d, %ecx
    jb 1b
    ret

ask_others:
    movq %rbx, question
    movl $1, %ecx
1:  movl %ecx, %edx
    shll $CPU_SHIFT, %edx
2:  cmpq %rbx, cells + CPU_ANSWER(%rdx)
    je 3f
    pause
    jmp 2b
3:  incl %ecx
    cmpl %r14d, %ecx
    jb 1b
    ret

    .globl other_main
other_main:
    movl %edi, %ebx
    call load_cpu_tables
    call enter_user
    shll $CPU_SHIFT, %ebx
1:  incq cells + CPU_OWN(%rbx)
    lock incq common
    movq question, %rax
    movq %rax, cells + CPU_ANSWER(%rbx)
    jmp 1b

    .section .rodata
key_cpus:      .asciz "cpus="
key_every:     .asciz "every="
key_limit:     .asciz "limit="
text_cpus:     .asciz "cpus="
text_round:    .asciz "round="
text_common:   .asciz " common="
text_corrupt:  .asciz "CORRUPT common="
text_low:      .asciz " low="
text_high:     .asciz " high="
text_bad_cpus: .asciz "ERROR cpus="

    .bss
    .balign 0x1000
cells:    .skip CPUS_MAX << CPU_SHIFT
    .balign 64
common:   .skip 64
question: .skip 64
