# counter: state that must continue without a seam. A round counter lives in memory, in a general register and in an
# xmm register at once; a table in memory holds in each entry a value that follows from the round that wrote it; the
# table's sum is kept in step in memory and in a register. Every round compares what must agree.
#
# Parameters: every= rounds per line (default 1,000,000), limit= lines, 0 = for ever, us= and khz= to pace the lines,
# crash= and what belongs to it: see runtime/crash.S.
# Lines: `count=HEX`, each one more than the one before. `CORRUPT what=HEX …` and the end if anything disagrees:
# what is 1 round in xmm, 2 round in memory, 3 sum in memory, 4 table entry (its index is printed), 5 sum of the table.
#
# Registers: RBX round, R12 sum of the table, R13 rounds per line, R14 lines left, XMM6 round in both halves,
# XMM7 one in both halves, RBP the factor.

    .equ TABLE_ENTRIES, 8192            # 16 pages
    .equ FACTOR,        0x9e3779b97f4a7c15

    .text
    .code64
    .globl guest_main
guest_main:
    call enter_user
    call pace_init
    leaq key_every(%rip), %rdi
    movl $1000000, %esi
    call param
    movq %rax, %r13
    leaq key_limit(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, %r14
    movabsq $FACTOR, %rbp
    xorl %ebx, %ebx
    xorl %r12d, %r12d
    pxor %xmm6, %xmm6
    pcmpeqd %xmm7, %xmm7                # all ones = -1 in both halves
    pxor %xmm5, %xmm5
    psubq %xmm7, %xmm5
    movdqa %xmm5, %xmm7                 # 0 - -1

line:
    movq %r13, %r15
1:  call round
    decq %r15
    jnz 1b
    call check_table
    incq count
    leaq text_count(%rip), %rdi
    movq count, %rsi
    call put_line
    movq count, %rdi
    call crash_here
    call pace_wait
    decq %r14                           # from 0 it takes 2^64 lines to come back to 0
    jnz line
    jmp finish

# One round: the entry of this round must hold the value given TABLE_ENTRIES rounds ago, then takes this round's.
round:
    incq %rbx
    paddq %xmm7, %xmm6
    incq rounds
    movl $1, %esi
    movq %xmm6, %rax
    cmpq %rbx, %rax
    jne corrupt
    movhlps %xmm6, %xmm0
    movq %xmm0, %rax
    cmpq %rbx, %rax
    jne corrupt
    movl $2, %esi
    cmpq %rbx, rounds
    jne corrupt
    movl $3, %esi
    cmpq %r12, sum
    jne corrupt
    movl %ebx, %ecx
    andl $TABLE_ENTRIES - 1, %ecx
    movq %rbx, %rax
    subq $TABLE_ENTRIES, %rax
    jbe 1f
    imulq %rbp, %rax
    jmp 2f
1:  xorl %eax, %eax                     # written for the first time
2:  movl $4, %esi
    cmpq %rax, table(, %rcx, 8)
    jne corrupt
    movq %rbx, %rdx
    imulq %rbp, %rdx
    movq %rdx, table(, %rcx, 8)
    subq %rax, %rdx
    addq %rdx, %r12
    addq %rdx, sum
    ret

check_table:
    xorl %eax, %eax
    xorl %ecx, %ecx
1:  addq table(, %rcx, 8), %rax
    incl %ecx
    cmpl $TABLE_ENTRIES, %ecx
    jb 1b
    movl $5, %esi
    cmpq %r12, %rax
    jne corrupt
    ret

# In: ESI = what disagrees, RAX and RCX as the check left them.
corrupt:
    pushq %rcx
    pushq %rax
    leaq text_corrupt(%rip), %rdi
    call put_field
    leaq text_round(%rip), %rdi
    movq %rbx, %rsi
    call put_field
    leaq text_value(%rip), %rdi
    popq %rsi
    call put_field
    leaq text_index(%rip), %rdi
    popq %rsi
    call put_line
    jmp power_off

    .section .rodata
key_every:    .asciz "every="
key_limit:    .asciz "limit="
text_count:   .asciz "count="
text_corrupt: .asciz "CORRUPT what="
text_round:   .asciz " round="
text_value:   .asciz " value="
text_index:   .asciz " index="

# Counter, sum and table lie in pages of their own: a page that is lost or comes back old is seen.
    .bss
    .balign 0x1000
count:  .skip 0x1000
rounds: .skip 0x1000
sum:    .skip 0x1000
table:  .skip TABLE_ENTRIES * 8
