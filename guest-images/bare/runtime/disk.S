# One virtio disk, one request at a time, waited for by looking.
#
# A request that the device refuses is printed, `ERROR disk status=HEX`, and ends the guest. Where the disk is: see
# virtio.S.

    .include "virtio.inc"

    .equ FEATURE_FLUSH, 1 << 9

    .text
    .code64
    .globl disk_open
# Out: RBP = the device. Clobbers everything else.
disk_open:
    movl $VIRTIO_ID_BLOCK, %edi
    call virtio_find
    movl $FEATURE_FLUSH, %edi
    call virtio_begin
    movl %eax, features
    xorl %esi, %esi
    leaq queue(%rip), %rdi
    call virtio_queue
    jmp virtio_driver_ok

    .globl disk_flush
# Returns when what was written is on the disk. Clobbers RAX, RCX, RDX, RSI, RDI.
disk_flush:
    testl $FEATURE_FLUSH, features
    jz 1f                               # a disk without a cache to flush
    movl $REQUEST_FLUSH, %edi
    xorl %esi, %esi
    xorl %ecx, %ecx
    jmp disk_request
1:  ret

    .globl disk_request
# One request, waited for. In: EDI = type, RSI = sector, RDX = buffer, ECX = bytes, 0 for none.
# Descriptors 0 header, 1 data, 2 status. Clobbers RAX, RCX, RDX, RSI, RDI.
disk_request:
    movl %edi, header
    movq %rsi, header + 8
    movb $0xff, status
    leaq queue(%rip), %rsi
    movq $header, (%rsi)
    movl $16, 8(%rsi)
    movq %rdx, 16(%rsi)
    movl %ecx, 24(%rsi)
    movq $status, 32(%rsi)
    movl $1, 40(%rsi)
    movl $DESC_WRITE, 44(%rsi)
    movl $DESC_NEXT | 2 << 16, %eax     # flags and next: header to status
    testl %ecx, %ecx
    jz 1f
    movl $DESC_NEXT | 1 << 16, %eax     # header to data
    movl $DESC_NEXT | 2 << 16, %edx     # data to status
    cmpl $REQUEST_IN, %edi
    jne 2f
    orl $DESC_WRITE, %edx
2:  movl %edx, 28(%rsi)
1:  movl %eax, 12(%rsi)
    movq %rsi, %rdi
    xorl %eax, %eax
    call virtio_offer
3:  pause
    call virtio_take
    jnc 3b
    movzbl status, %esi
    testl %esi, %esi
    jnz 4f
    ret
4:  leaq text_status(%rip), %rdi
    call put_line
    jmp power_off

    .section .rodata
text_status: .asciz "ERROR disk status="

    .bss
    .balign 0x1000
queue:    .skip QUEUE_BYTES
header:   .skip 16
features: .skip 4
status:   .skip 1
