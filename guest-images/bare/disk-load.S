# disk-load: reads its virtio disk, or writes to it and flushes, as fast as it goes.
#
# Each operation moves one block at a place that looks random: a read, or (write=1) a write whose first word is the
# operation's number, and a flush. With order=1 the blocks follow each other, and with run= so many are written before a
# flush, as a file is that is written and then synced. With cache= the blocks lie one after the other in so many MiB of
# memory and have new content each time, as in a page cache.
#
# Parameters: write= 0 or 1 (default 0), block= bytes, a multiple of 512 up to 65536 (default 4096), span= MiB of the
# disk, from its start (default 16), order= 0 or 1 (default 0), run= operations before a flush (default 1), cache= MiB of
# memory from 16 MiB on (default 0), report= operations per line (default 64), limit= lines, 0 = for ever; where the disk
# is: see runtime/virtio.S.
# Lines: `ops=HEX`, operations done so far. Errors, then the end: `ERROR block`, `ERROR disk status=HEX` (the device
# refused a request: also where `span` is more than the disk has).
#
# Registers: RBP the device, RBX operations, R12 blocks in the span, R13 place, R14 operations until the next line,
# R15 sectors of a block. Other variables lie in memory.

    .include "virtio.inc"

    .equ BLOCK_MAX,   65536
    .equ FACTOR,      6364136223846793005
    .equ INCREMENT,   1442695040888963407
    .equ CACHE_AT,    16 << 20

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
    call next_buffer
    pushq %rdx
    call next_sector
    popq %rdx
    movl %r15d, %ecx
    shll $9, %ecx
    movl $REQUEST_IN, %edi
    cmpq $0, write
    je 1f
    movq %rbx, (%rdx)
    movl $REQUEST_OUT, %edi
    call disk_request
    decq run_left
    jnz 2f
    movq run, %rax
    movq %rax, run_left
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

# Out: RDX = where the next block is in memory, with new content if it is in the cache. Clobbers RAX, RCX, RDI.
next_buffer:
    leaq block(%rip), %rdx
    cmpq $0, cache
    je 2f
    leaq -1(%rbx), %rax
    xorl %edx, %edx
    divq cache
    movq %r15, %rcx
    shlq $9, %rcx
    imulq %rcx, %rdx
    addq $CACHE_AT, %rdx
    shrq $3, %rcx
    movq %rdx, %rdi
    movq %rbx, %rax
    movabsq $FACTOR, %r8
    movabsq $INCREMENT, %r9
1:  imulq %r8, %rax
    addq %r9, %rax
    stosq
    decq %rcx
    jnz 1b
2:  ret

# Out: RSI = first sector of the next block.
next_sector:
    leaq -1(%rbx), %rax
    cmpq $0, order
    jne 1f
    movabsq $FACTOR, %rax
    imulq %rax, %r13
    movabsq $INCREMENT, %rax
    addq %rax, %r13
    movq %r13, %rax
    shrq $33, %rax
1:  xorl %edx, %edx
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
    leaq key_order(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, order
    leaq key_run(%rip), %rdi
    movl $1, %esi
    call param
    movq %rax, run
    movq %rax, run_left
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
    leaq key_cache(%rip), %rdi
    xorl %esi, %esi
    call param
    shlq $11, %rax
    xorl %edx, %edx
    divq %r15
    movq %rax, cache
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
key_order:      .asciz "order="
key_run:        .asciz "run="
key_cache:      .asciz "cache="
text_ops:       .asciz "ops="
text_bad_block: .asciz "ERROR block\n"

    .bss
    .balign 0x1000
block:  .skip BLOCK_MAX
write:    .skip 8
order:    .skip 8
run:      .skip 8
run_left: .skip 8
cache:    .skip 8                       # blocks in it
report:   .skip 8
limit:    .skip 8
