# hlt-timer: sleeps in HLT at CPL 0 and is woken by its local APIC's periodic timer.
#
# Parameters: us= microseconds per tick on an APIC bus of 1 GHz, which is KVM's and QEMU's (default 10000),
# report= ticks per line (default 10), limit= lines, 0 = for ever.
# Lines: `tick=HEX`, ticks since the start, each `report` more than the one before.
#
# Registers: RBX ticks at the last line, R12 report, R13 lines left. The handler uses memory only.

    .include "layout.inc"
    .include "lapic.inc"

    .text
    .code64
    .globl guest_main
guest_main:
    leaq key_report(%rip), %rdi
    movl $10, %esi
    call param
    movq %rax, %r12
    leaq key_limit(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, %r13
    xorl %ebx, %ebx
    call start_timer
sleep:
    cli
    movq ticks, %rax
    subq %rbx, %rax
    cmpq %r12, %rax
    jae 1f
    sti                                 # takes effect behind the next instruction: no tick is slept through
    hlt
    jmp sleep
1:  sti
    addq %r12, %rbx
    leaq text_tick(%rip), %rdi
    movq %rbx, %rsi
    call put_line
    decq %r13                           # from 0 it takes 2^64 lines to come back to 0
    jnz sleep
    cli
    jmp finish

start_timer:
    movb $0xff, %al
    outb %al, $PIC1_MASK
    outb %al, $PIC2_MASK
    movl $VECTOR_TIMER, %edi
    leaq on_tick(%rip), %rsi
    call set_gate
    movl $0xff, %edi
    leaq on_spurious(%rip), %rsi
    call set_gate
    leaq key_us(%rip), %rdi
    movl $10000, %esi
    call param
    imull $1000, %eax, %eax
    movl $LAPIC, %ecx                   # above 2 GiB: not reachable by a signed displacement
    movl $SPURIOUS_ENABLE, LAPIC_SPURIOUS - LAPIC(%rcx)
    movl $DIVIDE_BY_1, LAPIC_DIVIDE - LAPIC(%rcx)
    movl $TIMER_PERIODIC | VECTOR_TIMER, LAPIC_LVT_TIMER - LAPIC(%rcx)
    movl %eax, LAPIC_COUNT - LAPIC(%rcx)
    ret

on_tick:
    pushq %rcx
    incq ticks
    movl $LAPIC, %ecx
    movl $0, LAPIC_EOI - LAPIC(%rcx)
    popq %rcx
on_spurious:
    iretq

    .section .rodata
key_us:     .asciz "us="
key_report: .asciz "report="
key_limit:  .asciz "limit="
text_tick:  .asciz "tick="

    .bss
    .balign 8
ticks: .skip 8
