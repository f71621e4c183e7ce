# A polling driver's half of virtio-mmio (version 2): find a device, agree on features, set up queues, notify.
# No interrupts: every queue asks for none. Whatever the device refuses is printed and ends the guest.
#
# Parameters: mmio= address of the first device's registers (default 0xd0000000), stride= bytes from one to the next
# (0x1000), slots= how many to look at (8).

    .include "virtio.inc"

    .equ MAGIC, 0x74726976              # "virt"

    .text
    .code64
    .globl virtio_find
# In: EDI = virtio device id. Out: RBP = address of its registers. Clobbers everything else.
virtio_find:
    movl %edi, %ebx
    leaq key_mmio(%rip), %rdi
    movl $0xd0000000, %esi
    call param
    movq %rax, %rbp
    leaq key_stride(%rip), %rdi
    movl $0x1000, %esi
    call param
    movq %rax, %r12
    leaq key_slots(%rip), %rdi
    movl $8, %esi
    call param
1:  testl %eax, %eax
    jz 3f
    cmpl $MAGIC, MMIO_MAGIC(%rbp)
    jne 2f
    cmpl $2, MMIO_VERSION(%rbp)
    jne 2f
    cmpl %ebx, MMIO_DEVICE_ID(%rbp)
    je 4f
2:  addq %r12, %rbp
    decl %eax
    jmp 1b
3:  leaq text_no_device(%rip), %rdi
    movl %ebx, %esi
    jmp virtio_fail
4:  ret

    .globl virtio_begin
# In: RBP = registers, EDI = wanted features below bit 32. Out: EAX = those the device offers too. VERSION_1 is a must.
virtio_begin:
    movl $0, MMIO_STATUS(%rbp)
1:  cmpl $0, MMIO_STATUS(%rbp)
    jne 1b
    movl $STATUS_ACKNOWLEDGE, MMIO_STATUS(%rbp)
    movl $STATUS_ACKNOWLEDGE | STATUS_DRIVER, MMIO_STATUS(%rbp)
    movl $0, MMIO_FEATURES_SEL(%rbp)
    andl MMIO_FEATURES(%rbp), %edi
    movl $0, MMIO_DRIVER_SEL(%rbp)
    movl %edi, MMIO_DRIVER_FEATURES(%rbp)
    movl $1, MMIO_DRIVER_SEL(%rbp)
    movl $1, MMIO_DRIVER_FEATURES(%rbp) # bit 32, VERSION_1
    movl $STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK, MMIO_STATUS(%rbp)
    movl MMIO_STATUS(%rbp), %esi
    testl $STATUS_FEATURES_OK, %esi
    jz 2f
    movl %edi, %eax
    ret
2:  leaq text_no_features(%rip), %rdi
    jmp virtio_fail

    .globl virtio_queue
# In: RBP = registers, ESI = queue index, RDI = the queue's page, all zeros.
virtio_queue:
    movq %rbp, Q_DEVICE(%rdi)
    movl %esi, Q_INDEX(%rdi)
    movw $AVAIL_NO_INTERRUPT, Q_AVAIL_FLAGS(%rdi)
    movl %esi, MMIO_QUEUE_SEL(%rbp)
    movl MMIO_QUEUE_NUM_MAX(%rbp), %eax
    cmpl $QUEUE_SIZE, %eax
    jb 1f
    movl $QUEUE_SIZE, MMIO_QUEUE_NUM(%rbp)
    leaq Q_DESC(%rdi), %rax
    movl $MMIO_QUEUE_DESC, %ecx
    call write_address
    leaq Q_AVAIL_FLAGS(%rdi), %rax
    movl $MMIO_QUEUE_AVAIL, %ecx
    call write_address
    leaq Q_USED_FLAGS(%rdi), %rax
    movl $MMIO_QUEUE_USED, %ecx
    call write_address
    movl $1, MMIO_QUEUE_READY(%rbp)
    ret
1:  leaq text_no_queue(%rip), %rdi
    movl %eax, %esi
    jmp virtio_fail

# In: RAX = address, RCX = register pair, low half first.
write_address:
    movl %eax, (%rbp, %rcx)
    shrq $32, %rax
    movl %eax, 4(%rbp, %rcx)
    ret

    .globl virtio_driver_ok
virtio_driver_ok:
    movl $STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK, MMIO_STATUS(%rbp)
    ret

    .globl virtio_offer
# In: RDI = queue, EAX = head of the chain. Makes it available and tells the device if it wants to know.
# Clobbers RAX, RCX, RDX.
virtio_offer:
    movzwl Q_AVAIL_IDX(%rdi), %ecx
    movl %ecx, %edx
    andl $QUEUE_MASK, %edx
    movw %ax, Q_AVAIL_RING(%rdi, %rdx, 2)
    incl %ecx
    movw %cx, Q_AVAIL_IDX(%rdi)         # stores stay in order on this processor
    mfence                              # but not before the load of the device's flags
    testw $USED_NO_NOTIFY, Q_USED_FLAGS(%rdi)
    jnz 1f
    movq Q_DEVICE(%rdi), %rdx
    movl Q_INDEX(%rdi), %ecx
    movl %ecx, MMIO_QUEUE_NOTIFY(%rdx)
1:  ret

    .globl virtio_take
# In: RDI = queue. Out: carry set and RAX = head, RCX = length of the next used chain; carry clear if there is none.
# Clobbers RDX.
virtio_take:
    movzwl Q_USED_SEEN(%rdi), %edx
    cmpw Q_USED_IDX(%rdi), %dx
    je 1f                               # equal leaves carry clear
    movl %edx, %ecx
    andl $QUEUE_MASK, %ecx
    movl Q_USED_RING(%rdi, %rcx, 8), %eax
    movl Q_USED_RING + 4(%rdi, %rcx, 8), %ecx
    incl %edx
    movw %dx, Q_USED_SEEN(%rdi)
    stc
1:  ret

# In: RDI = "ERROR …=", RSI = number.
virtio_fail:
    call put_line
    jmp power_off

    .section .rodata
key_mmio:         .asciz "mmio="
key_stride:       .asciz "stride="
key_slots:        .asciz "slots="
text_no_device:   .asciz "ERROR no virtio device id="
text_no_features: .asciz "ERROR virtio features refused status="
text_no_queue:    .asciz "ERROR virtio queue too small size="
