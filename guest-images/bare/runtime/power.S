# The end of a guest.

    .equ SLEEP_CONTROL,    0x600        # ACPI sleep control register of the machine this is made for
    .equ SLEEP_S5,         5 << 2 | 0x20
    .equ PIIX4_PM1_CONTROL, 0x604       # the same wish, said to QEMU's `pc`
    .equ PIIX4_S5,         0x2000
    .equ ISA_DEBUG_EXIT,   0x501        # and to QEMU's `microvm -device isa-debug-exit`

    .text
    .code64
    .globl power_off
# Does not return. Usable at either level.
power_off:
    movl $SLEEP_CONTROL, %edx
    movb $SLEEP_S5, %al
    outb %al, %dx
    movl $PIIX4_PM1_CONTROL, %edx
    movl $PIIX4_S5, %eax
    outw %ax, %dx
    movl $ISA_DEBUG_EXIT, %edx
    xorl %eax, %eax
    outb %al, %dx
1:  pause
    jmp 1b

    .globl finish
# The regular end: says so, then powers off.
finish:
    leaq text_done(%rip), %rdi
    call put_string
    jmp power_off

    .section .rodata
text_done: .asciz "done\n"
