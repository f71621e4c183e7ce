# disk-journal: acknowledges on the serial line what it has made durable on its virtio disk.
#
# A record is one sector: magic, sequence number, words that follow from the number, and a checksum in the last word.
# Number n lies in sector (n - 1) mod records. At start the journal is read back: `last=HEX` names the highest number
# found (0 in an empty journal), and every record before it that is still in the ring must be whole. Then, for each
# next number: write, flush, `ack=HEX`. Whoever saw `ack=n` may hold the disk to it.
#
# Parameters: records= 2 to 65536 (default 4096, cut to the disk's size), limit= acknowledgements, 0 = for ever,
# us= and khz= to pace them, crash= and what belongs to it: see runtime/crash.S; where the disk is: see runtime/virtio.S.
# Errors, then the end: `CORRUPT slot=HEX expected=HEX found=HEX` (a record in the ring is missing or broken),
# `ERROR disk status=HEX` (the device refused a request).
#
# Registers: RBP the device, R12 records, R13 last number, R14 acknowledgements left.

    .include "virtio.inc"

    .equ SECTOR,          512
    .equ CHUNK_SECTORS,   128
    .equ RECORDS_MAX,     65536
    .equ MAGIC,           0x4c414e52554f4a4f    # "OJOURNAL" in memory, from the low byte
    .equ RECORD_SEQ,      8
    .equ RECORD_WORDS,    16
    .equ RECORD_SUM,      SECTOR - 8
    .equ FACTOR,          0x9e3779b97f4a7c15

    .text
    .code64
    .globl guest_main
guest_main:
    call enter_user
    call pace_init
    call disk_open
    call read_params
    call read_journal
    call check_journal
    leaq text_last(%rip), %rdi
    movq %r13, %rsi
    call put_line
append:
    incq %r13
    call build_record
    movl $REQUEST_OUT, %edi
    leaq -1(%r13), %rax
    xorl %edx, %edx
    divq %r12
    movq %rdx, %rsi
    leaq chunk(%rip), %rdx
    movl $SECTOR, %ecx
    call disk_request
    call disk_flush
    leaq text_ack(%rip), %rdi
    movq %r13, %rsi
    call put_line
    movq %r13, %rdi
    call crash_here
    call pace_wait
    decq %r14                           # from 0 it takes 2^64 lines to come back to 0
    jnz append
    jmp finish

read_params:
    leaq key_records(%rip), %rdi
    movl $4096, %esi
    call param
    movl MMIO_CONFIG(%rbp), %edx        # capacity in sectors, low and high half
    movl MMIO_CONFIG + 4(%rbp), %ecx
    shlq $32, %rcx
    orq %rcx, %rdx
    cmpq %rdx, %rax
    cmovaq %rdx, %rax
    movl $RECORDS_MAX, %edx
    cmpq %rdx, %rax
    cmovaq %rdx, %rax
    movq %rax, %r12
    cmpq $2, %rax
    jb 1f
    leaq key_limit(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, %r14
    ret
1:  leaq text_too_small(%rip), %rdi
    movq %rax, %rsi
    call put_line
    jmp power_off

# Reads the ring. Out: found[slot] = the number of the whole record there or 0, R13 = the highest.
read_journal:
    xorl %r13d, %r13d
    xorl %ebx, %ebx                     # slot
1:  movl $CHUNK_SECTORS, %r15d
    movq %r12, %rax
    subq %rbx, %rax
    cmpq %rax, %r15
    cmovaq %rax, %r15
    movl $REQUEST_IN, %edi
    movq %rbx, %rsi
    leaq chunk(%rip), %rdx
    movl %r15d, %ecx
    shll $9, %ecx
    call disk_request
    leaq chunk(%rip), %r8
2:  call whole_record
    movq %rax, found(, %rbx, 8)
    cmpq %r13, %rax
    cmovaq %rax, %r13
    addq $SECTOR, %r8
    incq %rbx
    decl %r15d
    jnz 2b
    cmpq %r12, %rbx
    jb 1b
    ret

# In: R8 = sector, RBX = slot. Out: RAX = its number, or 0 if there is no whole record of this slot. Keeps R8.
whole_record:
    movabsq $MAGIC, %rax
    cmpq %rax, (%r8)
    jne 1f
    movq fnv_start, %rax
    movq %r8, %rdi
    movl $RECORD_SUM, %ecx
    call fnv1a
    cmpq %rax, RECORD_SUM(%r8)
    jne 1f
    movq RECORD_SEQ(%r8), %rax
    decq %rax
    xorl %edx, %edx
    divq %r12
    cmpq %rbx, %rdx
    jne 1f
    movq RECORD_SEQ(%r8), %rax
    ret
1:  xorl %eax, %eax
    ret

# Every number from last - records + 2 on must be there. The slot of the next number is free: a write of it may have
# been under way.
check_journal:
    movq %r13, %rcx                     # number
    leaq -1(%r12), %r8                  # how many to look at
1:  testq %rcx, %rcx
    jz 2f
    testq %r8, %r8
    jz 2f
    leaq -1(%rcx), %rax
    xorl %edx, %edx
    divq %r12
    cmpq %rcx, found(, %rdx, 8)
    jne corrupt
    decq %rcx
    decq %r8
    jmp 1b
2:  ret
corrupt:
    movq found(, %rdx, 8), %r15
    movq %rcx, %r14
    leaq text_corrupt(%rip), %rdi
    movq %rdx, %rsi
    call put_field
    leaq text_expected(%rip), %rdi
    movq %r14, %rsi
    call put_field
    leaq text_found(%rip), %rdi
    movq %r15, %rsi
    call put_line
    jmp power_off

# Record R13 into the chunk buffer.
build_record:
    leaq chunk(%rip), %rdi
    movabsq $MAGIC, %rax
    movq %rax, (%rdi)
    movq %r13, RECORD_SEQ(%rdi)
    movabsq $FACTOR, %rdx
    imulq %r13, %rdx
    movl $RECORD_WORDS, %ecx
1:  movq %rdx, (%rdi, %rcx)
    rolq $7, %rdx
    addq %rcx, %rdx
    addl $8, %ecx
    cmpl $RECORD_SUM, %ecx
    jb 1b
    movq fnv_start, %rax
    call fnv1a                          # RDI = the record, ECX = RECORD_SUM
    movq %rax, chunk + RECORD_SUM
    ret

    .section .rodata
key_records:    .asciz "records="
key_limit:      .asciz "limit="
text_last:      .asciz "last="
text_ack:       .asciz "ack="
text_corrupt:   .asciz "CORRUPT slot="
text_expected:  .asciz " expected="
text_found:     .asciz " found="
text_too_small: .asciz "ERROR disk too small records="

    .bss
    .balign 0x1000
chunk:    .skip CHUNK_SECTORS * SECTOR
found:    .skip RECORDS_MAX * 8
