# A crash on purpose: at a value that the command line names, or when somebody types it.
#
# Parameters: crash= the value at which the guest crashes, 0 = never: it comes back whenever the guest comes there again.
# typed=1: it crashes when it reads a `c` from COM1: that is not typed again when the guest is rolled back. fault=1: by a
# triple fault instead of a report to pvpanic. watchdog= periods of 100 ms: it has itself watched, gives a sign of life
# whenever it comes here, and then crashes by giving none.

    .equ PVPANIC,          0x505
    .equ PVPANIC_PANICKED, 1
    .equ COM1_DATA,        0x3f8
    .equ COM1_STATUS,      0x3fd
    .equ STATUS_DATA,      1
    .equ WATCHDOG_CONTROL, 0x610
    .equ WATCHDOG_COUNT,   0x614
    .equ WATCHDOG_CURRENT, 0x618
    .equ GATES,            32

    .text
    .code64
    .globl crash_here
# In: RDI = a value that the guest has come to, from 1. Clobbers RAX, RCX, RDX, RSI, RDI, R8.
crash_here:
    cmpq $0, crash_known
    jne 1f
    pushq %rdi
    call read_crash_params
    popq %rdi
1:  cmpq $0, crash_watched
    je 2f
    movl $WATCHDOG_CURRENT, %edx
    outl %eax, %dx
2:  cmpq crash_at, %rdi
    je crash
    cmpq $0, crash_typed
    je 3f
    movl $COM1_STATUS, %edx
    inb %dx, %al
    testb $STATUS_DATA, %al
    jz 3f
    movl $COM1_DATA, %edx
    inb %dx, %al
    cmpb $'c', %al
    je crash
3:  ret

read_crash_params:
    movq $1, crash_known
    leaq key_crash(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, crash_at
    leaq key_typed(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, crash_typed
    leaq key_fault(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, crash_fault
    leaq key_watchdog(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, crash_watched
    testq %rax, %rax
    jz 1f
    movl $WATCHDOG_COUNT, %edx
    outl %eax, %dx
    movl $WATCHDOG_CONTROL, %edx
    movl $1, %eax
    outl %eax, %dx
1:  ret

crash:
    leaq text_crash(%rip), %rdi
    call put_string
    cmpq $0, crash_watched
    jne 1f
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

    .section .rodata
key_crash:    .asciz "crash="
key_typed:    .asciz "typed="
key_fault:    .asciz "fault="
key_watchdog: .asciz "watchdog="
text_crash:   .asciz "crash\n"

    .bss
    .balign 8
crash_known:   .skip 8
crash_at:      .skip 8
crash_typed:   .skip 8
crash_fault:   .skip 8
crash_watched: .skip 8
