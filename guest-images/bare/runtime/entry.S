# PVH entry, page tables, long mode, and the way down to CPL 3.
#
# A guest provides `guest_main`, entered in long mode at CPL 0 on its own stack, interrupts off. Most guests begin
# with `call enter_user`: where KVM emulates CPL 0 code, only CPL 3 runs at the processor's speed.
#
# Invariants: memory below 4 GiB is mapped one to one, for CPL 3 too; interrupts stay off unless a guest installs a
# gate and enables them.

    .include "layout.inc"

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18                      # name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .text
    .code32
    .globl pvh_entry
# In: 32-bit protected mode, paging off, EBX = hvm_start_info.
pvh_entry:
    cli
    cld
    movl %ebx, start_info
    movl $stacks + STACK_BYTES, %esp
    call build_page_tables
    movl $boot_cpu_main, %ebp

    .globl enter_long_mode
# In: 32-bit protected mode, ESP = stack, EBP = where to go on in long mode. Used by every CPU.
enter_long_mode:
    movl %cr4, %eax
    orl $CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT, %eax
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl $CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_PE, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $SEL_KERNEL_CODE64, $long_mode

# One to one, 2 MiB pages, 4 GiB.
build_page_tables:
    movl $pdpt + PTE_TABLE, pml4
    movl $4, %ecx
    movl $page_directories + PTE_TABLE, %eax
    movl $pdpt, %edi
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 1b
    movl $4 * 512, %ecx
    movl $PTE_HUGE, %eax
    movl $page_directories, %edi
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b
    ret

    .code64
long_mode:
    movl $SEL_KERNEL_DATA, %eax
    movl %eax, %ss
    movl $SEL_USER_DATA, %eax           # flat for either level, so CPL 3 needs no reload
    movl %eax, %ds
    movl %eax, %es
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %esp, %esp                     # the upper halves are undefined after the switch
    movl %ebp, %ebp
    jmp *%rbp

boot_cpu_main:
    call build_idt
    xorl %edi, %edi
    call load_cpu_tables
    jmp guest_main

    .globl load_cpu_tables
# In: EDI = CPU index below CPUS_MAX. Loads IDT and TSS.
load_cpu_tables:
    lidt idt_pointer
    movl %edi, %eax
    shll $TSS_SHIFT, %eax
    leaq task_states(%rax), %rsi        # this CPU's TSS
    leal 1(%rdi), %eax
    imull $STACK_BYTES, %eax
    leaq trap_stacks(%rax), %rax
    movq %rax, 4(%rsi)                  # RSP0: where traps from CPL 3 land
    movw $TSS_IO_BITMAP, 102(%rsi)      # all zeros: every port below PORTS is allowed
    movb $0xff, TSS_BYTES - 1(%rsi)
    shll $4, %edi
    leaq gdt + SEL_TSS(%rdi), %rdx
    movq %rsi, %rax
    shlq $16, %rax                      # bases fit in 24 bits
    movq $0x0000890000000000 + TSS_BYTES - 1, %rcx
    orq %rcx, %rax
    movq %rax, (%rdx)
    movq $0, 8(%rdx)
    leal SEL_TSS(%rdi), %eax
    ltr %ax
    ret

    .globl enter_user
# Returns to its caller at CPL 3, with the ports of the TSS's bitmap. Clobbers RCX, RDX.
enter_user:
    popq %rdx
    movq %rsp, %rcx
    pushq $SEL_USER_DATA
    pushq %rcx
    pushfq
    pushq $SEL_USER_CODE64
    pushq %rdx
    iretq

    .globl set_gate
# In: EDI = vector, RSI = handler. An interrupt gate for CPL 0 code.
set_gate:
    shll $4, %edi
    movw %si, idt(%rdi)
    movw $SEL_KERNEL_CODE64, idt + 2(%rdi)
    movw $0x8e00, idt + 4(%rdi)
    shrq $16, %rsi
    movw %si, idt + 6(%rdi)
    movq $0, idt + 8(%rdi)
    ret

build_idt:
    xorl %ebx, %ebx
1:  movl %ebx, %edi
    leaq trap_stubs(, %rbx, 8), %rsi
    call set_gate
    incl %ebx
    cmpl $32, %ebx
    jb 1b
    ret

# One 8-byte stub per exception; each leaves the vector on the stack.
    .balign 8
trap_stubs:
    vector = 0
    .rept 32
    .balign 8
    pushq $vector
    jmp trap
    vector = vector + 1
    .endr

# Every trap is a bug of the guest or of the machine below: say which and stop. The frame is printed from its lowest
# word: RIP, CS and RFLAGS, behind an error code for the vectors that push one.
trap:
    movq %rsp, %rbp
    movq %cr2, %r12
    movq (%rbp), %rsi
    leaq text_trap(%rip), %rdi
    call put_field
    movq 8(%rbp), %rsi
    leaq text_frame0(%rip), %rdi
    call put_field
    movq 16(%rbp), %rsi
    leaq text_frame1(%rip), %rdi
    call put_field
    movq 24(%rbp), %rsi
    leaq text_frame2(%rip), %rdi
    call put_field
    movq 32(%rbp), %rsi
    leaq text_frame3(%rip), %rdi
    call put_field
    movq %r12, %rsi
    leaq text_cr2(%rip), %rdi
    call put_field
    call put_newline
    jmp power_off

    .section .rodata
text_trap:   .asciz "TRAP="
text_frame0: .asciz " frame0="
text_frame1: .asciz " frame1="
text_frame2: .asciz " frame2="
text_frame3: .asciz " frame3="
text_cr2:    .asciz " cr2="

gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad idt

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x08 kernel code, 32 bits
    .quad 0x00af9b000000ffff            # 0x10 kernel code, 64 bits
    .quad 0x00cf93000000ffff            # 0x18 kernel data
    .quad 0x00affb000000ffff            # 0x20 user code, 64 bits
    .quad 0x00cff3000000ffff            # 0x28 user data
    .fill CPUS_MAX * 2, 8, 0            # 0x30 task states
gdt_end:

    .bss
    .balign 0x1000
pml4:             .skip 0x1000
pdpt:             .skip 0x1000
page_directories: .skip 0x4000
    .globl idt
idt:              .skip 0x1000
    .globl stacks
stacks:           .skip CPUS_MAX * STACK_BYTES
trap_stacks:      .skip CPUS_MAX * STACK_BYTES
task_states:      .skip CPUS_MAX << TSS_SHIFT
    .globl start_info
start_info:       .skip 8
