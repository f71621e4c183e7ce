# hostile: a guest that gives its devices as much work as they take, and more.
#
# Every processor publishes all of a ring at once and kicks, as soon as the ring was served; a ring that feeds itself is kicked
# once. Nobody waits for an answer. Whoever runs this guest must stay answerable, and its memory bounded.
#
# Parameters: disk= and disk2= what becomes of the first and the second disk: 0 nothing (default), 1 a ring that feeds itself (each
# sector of the disk must hold the next available index, 16 bits, and behind it the next sector, 64 bits), 2 reads and 3 writes of 16
# MiB, 64 in one kick, 4 flushes behind writes of a sector; rng=1 asks for entropy, net=1 sends frames, console=1 says more than
# anybody reads; cpus= processors (default 1), every= rounds over all devices per line (default 16). Memory: at least 64 MiB.
# Lines: `round=HEX`, one by one; with console=1 each is behind others, which begin with a dot.
#
# Registers of a processor: RBX lines, R12 entry of the table, R13 rounds until the next line.

    .include "layout.inc"
    .include "virtio.inc"

    .equ VIRTIO_ID_RNG,  4
    .equ WINDOWS,        8
    .equ STRIDE,         0x1000
    .equ DATA,           0x2000000
    .equ DATA_BYTES,     16 << 20
    .equ FRAME_BYTES,    12 + 1514

    .equ MODE_FEEDS,     1
    .equ MODE_READS,     2
    .equ MODE_WRITES,    3
    .equ MODE_FLUSHES,   4

    .text
    .code64
    .globl guest_main
guest_main:
    leaq key_cpus(%rip), %rdi
    movl $1, %esi
    call param
    movq %rax, %r14
    cmpq $1, %rax
    jbe 1f
    call start_others
1:  call enter_user
    leaq key_every(%rip), %rdi
    movl $16, %esi
    call param
    movq %rax, every
    leaq key_console(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, console
    call set_up
    xorl %ebx, %ebx
    movl $1, is_set_up
line:
    movq every, %r13
1:  call flood
    decq %r13
    jnz 1b
    cmpq $0, console
    je 2f
    movl $8, %r13d
3:  leaq text_noise(%rip), %rdi
    call put_string
    decl %r13d
    jnz 3b
2:  incq %rbx
    leaq text_round(%rip), %rdi
    movq %rbx, %rsi
    call put_line
    jmp line

    .globl other_main
other_main:
    call load_cpu_tables
    call enter_user
1:  pause
    cmpl $0, is_set_up
    je 1b
2:  call flood
    jmp 2b

# Publishes and kicks every ring of the table, whose end is a zero.
flood:
    leaq table(%rip), %r12
1:  movq (%r12), %rdi
    testq %rdi, %rdi
    jz 3f
    movzwl Q_USED_IDX(%rdi), %eax
    leal QUEUE_SIZE(%rax), %ecx
    lock cmpxchgw %cx, Q_AVAIL_IDX(%rdi) # only if all was served
    movq Q_DEVICE(%rdi), %rdx
    movl Q_INDEX(%rdi), %ecx
    movl %ecx, MMIO_QUEUE_NOTIFY(%rdx)
    addq $8, %r12
    jmp 1b
3:  ret

# Looks at every window and sets its device up. Registers: RBP window, R12 next entry of the table, R13 windows left, R14 disks so
# far, R15 the device's queue.
set_up:
    movl $0xd0000000, %ebp
    leaq table(%rip), %r12
    leaq queues(%rip), %r15
    movl $WINDOWS, %r13d
    xorl %r14d, %r14d
1:  cmpl $0x74726976, MMIO_MAGIC(%rbp)
    jne 2f
    movl MMIO_DEVICE_ID(%rbp), %eax
    cmpl $VIRTIO_ID_BLOCK, %eax
    jne 3f
    call set_up_disk
    jmp 2f
3:  cmpl $VIRTIO_ID_RNG, %eax
    jne 4f
    call set_up_rng
    jmp 2f
4:  cmpl $VIRTIO_ID_NET, %eax
    jne 2f
    call set_up_net
2:  addq $STRIDE, %rbp
    addq $QUEUE_BYTES, %r15
    decl %r13d
    jnz 1b
    ret

# In: ESI = queue index.
begin:
    pushq %rsi
    xorl %edi, %edi
    call virtio_begin
    popq %rsi
    movq %r15, %rdi
    call virtio_queue
    jmp virtio_driver_ok

set_up_rng:
    leaq key_rng(%rip), %rdi
    xorl %esi, %esi
    call param
    testq %rax, %rax
    jz 1f
    xorl %esi, %esi
    call begin
    movl $4096, %ecx
    movl $DESC_WRITE << 16, %edx
    jmp one_buffer
1:  ret

set_up_net:
    leaq key_net(%rip), %rdi
    xorl %esi, %esi
    call param
    testq %rax, %rax
    jz 1f
    movl $1, %esi
    call begin
    movl $FRAME_BYTES, %ecx
    xorl %edx, %edx
one_buffer:
    movl $DATA, %eax
    movl $0, %esi
    call descriptor
    jmp enter
1:  ret

# The queue at R15 is flooded from now on.
enter:
    movq %r15, (%r12)
    addq $8, %r12
    ret

# In: ESI = index, RAX = address, ECX = length, EDX = flags in the upper half and next in the lower.
descriptor:
    shll $4, %esi
    movq %rax, (%r15, %rsi)
    movl %ecx, 8(%r15, %rsi)
    roll $16, %edx
    movl %edx, 12(%r15, %rsi)
    ret

set_up_disk:
    incl %r14d
    leaq key_disk(%rip), %rdi
    cmpl $1, %r14d
    je 1f
    leaq key_disk2(%rip), %rdi
1:  xorl %esi, %esi
    call param
    testq %rax, %rax
    jz 9f
    pushq %rax
    xorl %esi, %esi
    call begin
    popq %r8
    # The header and the status lie behind the driver's cursors in the queue's page.
    leaq 3200(%r15), %rax
    movl $16, %ecx
    movl $DESC_NEXT << 16 | 1, %edx
    xorl %esi, %esi
    call descriptor
    cmpl $MODE_FEEDS, %r8d
    je feeds
    movl $REQUEST_IN, %r9d
    movl $(DESC_NEXT | DESC_WRITE) << 16 | 2, %edx
    movl $DATA_BYTES, %ecx
    cmpl $MODE_READS, %r8d
    je 2f
    movl $REQUEST_OUT, %r9d
    movl $DESC_NEXT << 16 | 2, %edx
    cmpl $MODE_WRITES, %r8d
    je 2f
    movl $512, %ecx
2:  movl %r9d, 3200(%r15)
    movl $DATA, %eax
    movl $1, %esi
    call descriptor
    leaq 3232(%r15), %rax
    movl $1, %ecx
    movl $DESC_WRITE << 16, %edx
    movl $2, %esi
    call descriptor
    cmpl $MODE_FLUSHES, %r8d
    jne enter
    # Every second request of the ring is a flush: a header of its own, and the status.
    movl $REQUEST_FLUSH, 3264(%r15)
    leaq 3264(%r15), %rax
    movl $16, %ecx
    movl $DESC_NEXT << 16 | 2, %edx
    movl $3, %esi
    call descriptor
    movl $1, %ecx
3:  movw $3, Q_AVAIL_RING(%r15, %rcx, 2)
    addl $2, %ecx
    cmpl $QUEUE_SIZE, %ecx
    jb 3b
    jmp enter
9:  ret

# Each request reads the available index of the next one, and its sector.
feeds:
    leaq Q_AVAIL_IDX(%r15), %rax
    movl $2, %ecx
    movl $(DESC_NEXT | DESC_WRITE) << 16 | 2, %edx
    movl $1, %esi
    call descriptor
    leaq 3208(%r15), %rax
    movl $8, %ecx
    movl $(DESC_NEXT | DESC_WRITE) << 16 | 3, %edx
    movl $2, %esi
    call descriptor
    movl $DATA, %eax
    movl $502, %ecx
    movl $(DESC_NEXT | DESC_WRITE) << 16 | 4, %edx
    movl $3, %esi
    call descriptor
    leaq 3232(%r15), %rax
    movl $1, %ecx
    movl $DESC_WRITE << 16, %edx
    movl $4, %esi
    call descriptor
    movw $1, Q_AVAIL_IDX(%r15)
    movl $0, MMIO_QUEUE_NOTIFY(%rbp)    # the one kick
    ret

    .section .rodata
key_cpus:       .asciz "cpus="
key_every:      .asciz "every="
key_console:    .asciz "console="
key_rng:        .asciz "rng="
key_net:        .asciz "net="
key_disk:       .asciz "disk="
key_disk2:      .asciz "disk2="
text_round:     .asciz "round="
text_noise:     .asciz "................................................................\n"

    .bss
    .balign 0x1000
queues:     .skip WINDOWS * QUEUE_BYTES
table:      .skip 8 * (WINDOWS + 1)
every:      .skip 8
console:    .skip 8
    .balign 64
is_set_up:  .skip 4
