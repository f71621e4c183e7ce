# dirty: writes memory at a known rate and checks that it keeps what was written.
#
# Every round writes `words` 8-byte words into each of `pages` pages, spread evenly over `span` MiB from 16 MiB on,
# after checking that they hold what the round before wrote. The values differ in every word and every round and
# look random, so that a delta sees exactly words × 8 changed bytes a page.
#
# Parameters: pages= (default 1024), span= MiB (default 64, at most 2048), words= 1 to 512 (default 1),
# rounds= 0 = for ever, report= rounds per line (default 1), us= and khz= to pace the rounds, crash= and what belongs to it:
# see runtime/crash.S.
# Lines: `round=HEX`; `CORRUPT round=HEX address=HEX value=HEX` and the end if a word is not what was written;
# `ERROR span` and the end if the pages do not fit.
#
# Registers: RBX round, RBP address of the page, R12 pages left, R13 stride, R14 rounds until the next line,
# R15 words.

    .equ MEMORY_START, 16 << 20
    .equ SPAN_MAX,     2048
    .equ WORDS_MAX,    512
    .equ FACTOR_ROUND, 0x9e3779b97f4a7c15
    .equ FACTOR_PLACE, 0xd6e8feb86659fd93

    .text
    .code64
    .globl guest_main
guest_main:
    call enter_user
    call pace_init
    call read_params
    xorl %ebx, %ebx
round:
    incq %rbx
    movl $MEMORY_START, %ebp
    movq pages, %r12
1:  call check_page
    call write_page
    addq %r13, %rbp
    decq %r12
    jnz 1b
    decq %r14
    jnz 2f
    movq report, %r14
    leaq text_round(%rip), %rdi
    movq %rbx, %rsi
    call put_line
    movq %rbx, %rdi
    call crash_here
2:  call pace_wait
    cmpq rounds, %rbx                   # rounds = 0 is never met: RBX begins at 1
    jne round
    jmp finish

read_params:
    leaq key_pages(%rip), %rdi
    movl $1024, %esi
    call param
    movq %rax, pages
    leaq key_span(%rip), %rdi
    movl $64, %esi
    call param
    movq %rax, %r12
    leaq key_words(%rip), %rdi
    movl $1, %esi
    call param
    movq %rax, %r15
    leaq key_rounds(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, rounds
    leaq key_report(%rip), %rdi
    movl $1, %esi
    call param
    movq %rax, report
    movq %rax, %r14
    cmpq $SPAN_MAX, %r12
    ja bad_span
    leaq -1(%r15), %rax
    cmpq $WORDS_MAX, %rax
    jae bad_span
    cmpq $0, pages
    je bad_span
    movq %r12, %rax                     # stride = whole pages of span / pages
    shlq $8, %rax
    xorl %edx, %edx
    divq pages
    testq %rax, %rax
    jz bad_span
    shlq $12, %rax
    movq %rax, %r13
    ret
bad_span:
    leaq text_bad_span(%rip), %rdi
    call put_string
    jmp power_off

# Value of the word at RDI in round RSI: RAX. Clobbers RDX. Two multiplications and a shift between them.
    .macro word_value
    movabsq $FACTOR_ROUND, %rax
    imulq %rsi, %rax
    movabsq $FACTOR_PLACE, %rdx
    xorq %rdi, %rax
    imulq %rdx, %rax
    movq %rax, %rdx
    shrq $29, %rdx
    xorq %rdx, %rax
    .endm

check_page:
    leaq -1(%rbx), %rsi
    testq %rsi, %rsi                    # nothing was written before the first round
    jz 2f
    movq %rbp, %rdi
    movl %r15d, %ecx
1:  word_value
    cmpq %rax, (%rdi)
    jne corrupt
    addq $8, %rdi
    decl %ecx
    jnz 1b
2:  ret

write_page:
    movq %rbx, %rsi
    movq %rbp, %rdi
    movl %r15d, %ecx
1:  word_value
    movq %rax, (%rdi)
    addq $8, %rdi
    decl %ecx
    jnz 1b
    ret

corrupt:
    movq %rdi, %r12
    movq (%rdi), %r13
    leaq text_corrupt(%rip), %rdi
    movq %rbx, %rsi
    call put_field
    leaq text_address(%rip), %rdi
    movq %r12, %rsi
    call put_field
    leaq text_value(%rip), %rdi
    movq %r13, %rsi
    call put_line
    jmp power_off

    .section .rodata
key_pages:     .asciz "pages="
key_span:      .asciz "span="
key_words:     .asciz "words="
key_rounds:    .asciz "rounds="
key_report:    .asciz "report="
text_round:    .asciz "round="
text_corrupt:  .asciz "CORRUPT round="
text_address:  .asciz " address="
text_value:    .asciz " value="
text_bad_span: .asciz "ERROR span\n"

    .bss
    .balign 8
pages:  .skip 8
rounds: .skip 8
report: .skip 8
