# A crash on purpose, at a place and a time that the command line names.
#
# Parameters: crash= the value at which the guest crashes, 0 = never. until= the second of the hour from which on it does
# not any more, by the real-time clock, which no rollback turns back; without it, it always does. With fault=1 it crashes
# by a triple fault instead of a report to pvpanic.

    .equ PVPANIC,        0x505
    .equ PVPANIC_PANICKED, 1
    .equ CMOS_INDEX,     0x70
    .equ CMOS_DATA,      0x71
    .equ RTC_SECONDS,    0
    .equ RTC_MINUTES,    2
    .equ ALWAYS,         1 << 32
    .equ HALF_AN_HOUR,   1800
    .equ GATES,          32

    .text
    .code64
    .globl crash_here
# In: RDI = a value that the guest has come to, from 1. Clobbers RAX, RCX, RDX, RSI, RDI, R8.
crash_here:
    pushq %rdi
    cmpq $0, crash_known
    jne 1f
    leaq key_crash(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, crash_at
    leaq key_until(%rip), %rdi
    movabsq $ALWAYS, %rsi
    call param
    movq %rax, crash_until
    leaq key_fault(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, crash_fault
    movq $1, crash_known
1:  popq %rdi
    cmpq crash_at, %rdi
    jne 3f
    movabsq $ALWAYS, %rax
    cmpq %rax, crash_until
    je crash
    call second_of_the_hour
    movq crash_until, %rcx              # it is still to come if it is less than half an hour ahead
    subq %rax, %rcx
    jz 3f
    jns 2f
    addq $2 * HALF_AN_HOUR, %rcx
2:  cmpq $HALF_AN_HOUR, %rcx
    jb crash
3:  ret

crash:
    leaq text_crash(%rip), %rdi
    call put_string
    cmpq $0, crash_fault
    jne 2f
    movl $PVPANIC, %edx
    movb $PVPANIC_PANICKED, %al
    outb %al, %dx
1:  pause
    jmp 1b
2:  xorl %eax, %eax                     # no exception has a gate any more
    leaq idt(%rip), %rdi
    movl $GATES * 2, %ecx
    rep stosq
    ud2

# Out: RAX. Clobbers RCX, RDX, RSI.
second_of_the_hour:
    movb $RTC_MINUTES, %al
    call read_rtc
    movl %eax, %esi
    movb $RTC_SECONDS, %al
    call read_rtc
    movl %eax, %ecx
    movb $RTC_MINUTES, %al
    pushq %rcx
    call read_rtc
    popq %rcx
    cmpl %esi, %eax
    jne second_of_the_hour
    imull $60, %eax
    addl %ecx, %eax
    ret

# In: AL = register. Out: EAX, from two decimal digits. Clobbers ECX.
read_rtc:
    outb %al, $CMOS_INDEX
    inb $CMOS_DATA, %al
    movzbl %al, %eax
    movl %eax, %ecx
    shrl $4, %ecx
    imull $6, %ecx
    subl %ecx, %eax
    ret

    .section .rodata
key_crash:  .asciz "crash="
key_until:  .asciz "until="
key_fault:  .asciz "fault="
text_crash: .asciz "crash\n"

    .bss
    .balign 8
crash_known: .skip 8
crash_at:    .skip 8
crash_until: .skip 8
crash_fault: .skip 8
