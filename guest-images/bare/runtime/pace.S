# Pacing by TSC: `us=` microseconds a step on a TSC of `khz=`. Without both, no pacing.
#
# The deadline is kept in TSC ticks of the host that set it. On another host (after a takeover) it may lie far off:
# a deadline more than one period ahead or behind is set anew, never waited for or caught up with.

    .text
    .code64
    .globl pace_init
pace_init:
    leaq key_us(%rip), %rdi
    xorl %esi, %esi
    call param
    pushq %rax
    leaq key_khz(%rip), %rdi
    xorl %esi, %esi
    call param
    popq %rdx
    mulq %rdx
    movl $1000, %ecx
    divq %rcx
    movq %rax, pace_period
    call read_tsc
    movq %rax, pace_deadline
    ret

    .globl pace_wait
# Returns at the end of the current period and starts the next. Clobbers RAX, RCX, RDX, RSI.
pace_wait:
    movq pace_period, %rcx
    testq %rcx, %rcx
    jz 3f
    movq pace_deadline, %rsi
    addq %rcx, %rsi
1:  call read_tsc
    movq %rsi, %rdx
    subq %rax, %rdx                     # ticks left
    jle 2f
    cmpq %rcx, %rdx
    ja 4f
    pause
    jmp 1b
2:  negq %rdx
    cmpq %rcx, %rdx
    ja 4f
    movq %rsi, pace_deadline
3:  ret
4:  movq %rax, pace_deadline
    ret

    .globl read_tsc
# Out: RAX. Clobbers RDX.
read_tsc:
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    ret

    .section .rodata
key_us:  .asciz "us="
key_khz: .asciz "khz="

    .bss
    .balign 8
pace_period:   .skip 8
pace_deadline: .skip 8
