# disk-load: reads its virtio disk, or writes to it and flushes, as fast as it goes.
#
# Each operation moves one block at a place that looks random: a read, or (write=1) a write whose first word is the
# operation's number, and a flush.
#
# Parameters: write= 0 or 1 (default 0), block= bytes, a multiple of 512 up to 65536 (default 4096), span= MiB of the
# disk, from its start (default 16), report= operations per line (default 64), limit= lines, 0 = for ever; where the disk is:
# see runtime/virtio.S.
# Lines: `ops=HEX`, operations done so far. Errors, then the end: `ERROR block`, `ERROR disk status=HEX` (the device
# refused a request: also where `span` is more than the disk has).
#
# Registers: RBP the device, RBX operations, R12 blocks in the span, R13 place, R14 operations until the next line,
# R15 sectors of a block.

    .include "virtio.inc"

    .equ BLOCK_MAX,   65536
    .equ FACTOR,      6364136223846793005
    .equ INCREMENT,   1442695040888963407

    .text
    .code64
    .globl guest_main
guest_main:
    call enter_user
    call disk_open
    call read_params
    xorl %ebx, %ebx
    movl $1, %r13d
operation:
    incq %rbx
    call next_sector
    leaq block(%rip), %rdx
    movl %r15d, %ecx
    shll $9, %ecx
    movl $REQUEST_IN, %edi
    cmpq $0, write
    je 1f
    movq %rbx, (%rdx)
    movl $REQUEST_OUT, %edi
    call disk_request
    call disk_flush
    jmp 2f
1:  call disk_request
2:  decq %r14
    jnz operation
    movq report, %r14
    leaq text_ops(%rip), %rdi
    movq %rbx, %rsi
    call put_line
    decq limit                          # from 0 it takes 2^64 lines to come back to 0
    jnz operation
    jmp finish

# Out: RSI = first sector of the next block.
next_sector:
    movabsq $FACTOR, %rax
    imulq %rax, %r13
    movabsq $INCREMENT, %rax
    addq %rax, %r13
    movq %r13, %rax
    shrq $33, %rax
    xorl %edx, %edx
    divq %r12
    movq %rdx, %rsi
    imulq %r15, %rsi
    ret

read_params:
    leaq key_write(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, write
    leaq key_report(%rip), %rdi
    movl $64, %esi
    call param
    movq %rax, report
    movq %rax, %r14
    leaq key_limit(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, limit
    leaq key_block(%rip), %rdi
    movl $4096, %esi
    call param
    cmpq $BLOCK_MAX, %rax
    ja bad_block
    movq %rax, %r15
    shrq $9, %r15
    jz bad_block
    leaq key_span(%rip), %rdi
    movl $16, %esi
    call param
    shlq $11, %rax                      # sectors in a MiB
    xorl %edx, %edx
    divq %r15
    movq %rax, %r12
    testq %rax, %rax
    jz bad_block
    ret
bad_block:
    leaq text_bad_block(%rip), %rdi
    call put_string
    jmp power_off

    .section .rodata
key_write:      .asciz "write="
key_report:     .asciz "report="
key_limit:      .asciz "limit="
key_block:      .asciz "block="
key_span:       .asciz "span="
text_ops:       .asciz "ops="
text_bad_block: .asciz "ERROR block\n"

    .bss
    .balign 0x1000
block:  .skip BLOCK_MAX
write:  .skip 8
report: .skip 8
limit:  .skip 8
