# Starting the other processors: INIT and SIPI, real mode, protected mode, long mode.
#
# A guest that uses this provides `other_main`, entered in long mode at CPL 0 with EDI = the processor's index from 1, its own
# stack, interrupts off; it begins with `call load_cpu_tables`.

    .include "layout.inc"
    .include "lapic.inc"

    .equ START_PAGE,   0x8              # the others start in real mode at 0x8000

    .text
    .code64
    .globl start_others
# In: R14 = processors, this one included. At CPL 0. Returns when all have arrived. Clobbers RAX, RCX, RDX, RSI, RDI.
start_others:
    movl $1, arrived
    movl $START_PAGE << 12, %edi
    leaq start_code(%rip), %rsi
    movl $start_code_end - start_code, %ecx
    rep movsb
    movl $LAPIC, %edx
    movl $SPURIOUS_ENABLE, LAPIC_SPURIOUS - LAPIC(%rdx)
    movl $ICR_INIT, LAPIC_ICR - LAPIC(%rdx)
    call wait_icr
    movl $ICR_STARTUP | START_PAGE, LAPIC_ICR - LAPIC(%rdx)
    call wait_icr
1:  pause
    cmpl %r14d, arrived
    jb 1b
    ret

wait_icr:
    testl $ICR_PENDING, LAPIC_ICR - LAPIC(%rdx)
    jnz wait_icr
    ret

# Every other processor: real mode, protected mode, then the runtime's way.
    .code16
start_code:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (START_PAGE << 12) + start_gdt_pointer - start_code
    movl $CR0_NE | CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $SEL_KERNEL_CODE32, $other_protected
start_gdt_pointer:
    .word SEL_TSS - 1
    .long gdt
start_code_end:

    .code32
other_protected:
    movl $SEL_KERNEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $1, %edi
    lock xaddl %edi, arrived            # this processor's index; its stack must be ready before anybody goes on
    cmpl $CPUS_MAX, %edi
    jae 1f
    leal 1(%edi), %eax
    shll $12, %eax
    leal stacks(%eax), %esp
    movl $other_main, %ebp
    jmp enter_long_mode
1:  hlt
    jmp 1b

    .bss
    .balign 64
    .globl arrived
arrived:  .skip 4
