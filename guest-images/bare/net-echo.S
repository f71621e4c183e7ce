# net-echo: a small host on virtio-net: answers ARP, ICMP echo, and UDP requests that count.
#
# A UDP request to `port` begins with a sequence number and may carry more bytes. The reply is three 8-byte words,
# little-endian: the request's number; how many requests this guest has answered, this one included; FNV-1a (64 bits)
# over those two words and the request's further bytes. The count lives in memory only: a guest that was put back too
# far answers with a count that was already given to another number.
#
# Parameters: ip= (default 10.77.0.10), port= (default 7000), mac= 48-bit number, used if the device has none
# (default 0x020000000010), report= requests per serial line, 0 = none (default 0), write= MiB that it writes anew all the
# time while it waits for requests, from 16 MiB on, with bytes that do not compress (default 0); where the device is: see
# runtime/virtio.S.
# Lines: `ready mac=HEX`; with report=, `count=HEX`.
#
# Not done: IPv4 options and fragments, routing (replies go back to the MAC that asked), UDP checksums (the reply's is
# 0, none). What is not understood is dropped.
#
# Registers: RBP the device; while a frame is worked on, RBX the frame, R12D its length, R13 the reply's frame.

    .include "virtio.inc"

    .equ FEATURE_MAC,  1 << 5
    .equ HEADER,       12               # struct virtio_net_hdr of a VERSION_1 device
    .equ BUFFER,       2048
    .equ RX,           0
    .equ TX,           1

# Offsets in a frame.
    .equ ETH_DST,      0
    .equ ETH_SRC,      6
    .equ ETH_TYPE,     12
    .equ ARP_OPER,     20
    .equ ARP_SHA,      22
    .equ ARP_SPA,      28
    .equ ARP_THA,      32
    .equ ARP_TPA,      38
    .equ ARP_END,      42
    .equ IP,           14
    .equ IP_LENGTH,    16
    .equ IP_FRAGMENT,  20
    .equ IP_TTL,       22
    .equ IP_PROTOCOL,  23
    .equ IP_CHECKSUM,  24
    .equ IP_SRC,       26
    .equ IP_DST,       30
    .equ IP_END,       34
    .equ ICMP_TYPE,    34
    .equ ICMP_CHECKSUM, 36
    .equ ICMP_END,     42
    .equ UDP_SRC,      34
    .equ UDP_DST,      36
    .equ UDP_LENGTH,   38
    .equ UDP_CHECKSUM, 40
    .equ UDP_DATA,     42
    .equ REPLY_BYTES,  24

    .equ FRAME_MAX,    1514

    .equ WRITE_START,  16 << 20

    .text
    .code64
    .globl guest_main
guest_main:
    call enter_user
    call open_net
    call read_params
    call offer_receive_buffers
    leaq text_ready(%rip), %rdi
    movq mac, %rsi
    bswapq %rsi
    shrq $16, %rsi
    call put_line
serve:
    pause
    call write_page
    leaq rx_queue(%rip), %rdi
    call virtio_take
    jnc serve
    movl %eax, %r14d
    imull $BUFFER, %eax
    leaq rx_buffers + HEADER(%rax), %rbx
    leal -HEADER(%rcx), %r12d
    cmpl $FRAME_MAX, %r12d              # unsigned: a length below the header's is caught too
    ja 1f
    call handle_frame
1:  leaq rx_queue(%rip), %rdi
    movl %r14d, %eax
    call virtio_offer
    jmp serve

# Writes the next page of those that are written all the time.
write_page:
    movq write_bytes, %rsi
    testq %rsi, %rsi
    jz 3f
    movq write_at, %rdi
    cmpq %rsi, %rdi
    jb 1f
    xorl %edi, %edi
1:  leaq 0x1000(%rdi), %rax
    movq %rax, write_at
    movq write_word, %rax
    movabsq $6364136223846793005, %rdx
    movl $512, %ecx
2:  imulq %rdx, %rax
    addq %rdx, %rax
    movq %rax, WRITE_START(%rdi)
    addq $8, %rdi
    decl %ecx
    jnz 2b
    movq %rax, write_word
3:  ret

open_net:
    movl $VIRTIO_ID_NET, %edi
    call virtio_find
    movl $FEATURE_MAC, %edi
    call virtio_begin
    pushq %rax
    leaq key_mac(%rip), %rdi
    movabsq $0x020000000010, %rsi
    call param
    shlq $16, %rax                      # in memory: the six bytes in their order, then zeros
    bswapq %rax
    movq %rax, mac
    popq %rax
    testl $FEATURE_MAC, %eax
    jz 2f
    xorl %ecx, %ecx
1:  movb MMIO_CONFIG(%rbp, %rcx), %al
    movb %al, mac(%rcx)
    incl %ecx
    cmpl $6, %ecx
    jb 1b
2:  movl $RX, %esi
    leaq rx_queue(%rip), %rdi
    call virtio_queue
    movl $TX, %esi
    leaq tx_queue(%rip), %rdi
    call virtio_queue
    jmp virtio_driver_ok

read_params:
    leaq key_ip(%rip), %rdi
    movl $0x0a4d000a, %esi
    call param_ipv4
    bswapl %eax
    movl %eax, ip
    leaq key_port(%rip), %rdi
    movl $7000, %esi
    call param
    xchgb %al, %ah
    movw %ax, port
    leaq key_report(%rip), %rdi
    xorl %esi, %esi
    call param
    movq %rax, report
    movq %rax, report_left
    leaq key_write(%rip), %rdi
    xorl %esi, %esi
    call param
    shlq $20, %rax
    movq %rax, write_bytes
    ret

# Descriptor n of either queue is buffer n for ever.
offer_receive_buffers:
    xorl %ebx, %ebx
1:  movl %ebx, %eax
    imull $BUFFER, %eax
    movl %ebx, %ecx
    shll $4, %ecx
    leaq rx_buffers(%rax), %rdx
    movq %rdx, rx_queue(%rcx)
    movl $BUFFER, rx_queue + 8(%rcx)
    movw $DESC_WRITE, rx_queue + 12(%rcx)
    leaq tx_buffers(%rax), %rdx
    movq %rdx, tx_queue(%rcx)
    leaq rx_queue(%rip), %rdi
    movl %ebx, %eax
    call virtio_offer
    incl %ebx
    cmpl $QUEUE_SIZE, %ebx
    jb 1b
    ret

handle_frame:
    cmpl $ARP_END, %r12d                # an Ethernet frame is longer anyway
    jb 1f
    cmpw $0x0608, ETH_TYPE(%rbx)        # constants in network order: 0x0806
    je handle_arp
    cmpw $0x0008, ETH_TYPE(%rbx)
    je handle_ip
1:  ret

handle_arp:
    cmpw $0x0100, ARP_OPER(%rbx)        # request
    jne 1f
    movl ip, %eax
    cmpl %eax, ARP_TPA(%rbx)
    jne 1f
    movl $ARP_END, %r12d
    call copy_to_reply
    movw $0x0200, ARP_OPER(%r13)
    movl ARP_SHA(%rbx), %eax            # who asked becomes the target, address and all
    movl %eax, ARP_THA(%r13)
    movl ARP_SHA + 4(%rbx), %eax
    movw %ax, ARP_THA + 4(%r13)
    movl ARP_SPA(%rbx), %eax
    movl %eax, ARP_TPA(%r13)
    movl mac, %eax
    movl %eax, ARP_SHA(%r13)
    movw mac + 4, %ax
    movw %ax, ARP_SHA + 4(%r13)
    movl ip, %eax
    movl %eax, ARP_SPA(%r13)
    jmp send_reply
1:  ret

# Checks the header, cuts padding off R12D.
handle_ip:
    cmpb $0x45, IP(%rbx)
    jne 1f
    movl ip, %eax
    cmpl %eax, IP_DST(%rbx)
    jne 1f
    testw $0xff3f, IP_FRAGMENT(%rbx)    # more fragments, or an offset
    jnz 1f
    leaq IP(%rbx), %rdi
    movl $IP_END - IP, %ecx
    call internet_checksum
    testw %ax, %ax                      # 0 over a header that carries its own
    jnz 1f
    movzwl IP_LENGTH(%rbx), %eax
    xchgb %al, %ah
    addl $IP, %eax
    cmpl %r12d, %eax
    ja 1f
    movl %eax, %r12d
    cmpl $ICMP_END, %r12d               # the shortest ICMP echo and UDP headers end together
    jb 1f
    cmpb $1, IP_PROTOCOL(%rbx)
    je handle_icmp
    cmpb $17, IP_PROTOCOL(%rbx)
    je handle_udp
1:  ret

handle_icmp:
    cmpw $0x0008, ICMP_TYPE(%rbx)       # type 8, code 0: echo request
    jne 1f
    call copy_to_reply
    movw $0, ICMP_TYPE(%r13)
    movw $0, ICMP_CHECKSUM(%r13)
    leaq ICMP_TYPE(%r13), %rdi
    leal -ICMP_TYPE(%r12), %ecx
    call internet_checksum
    movw %ax, ICMP_CHECKSUM(%r13)
    jmp send_ip_reply
1:  ret

handle_udp:
    movw port, %ax
    cmpw %ax, UDP_DST(%rbx)
    jne 1f
    movzwl UDP_LENGTH(%rbx), %eax
    xchgb %al, %ah
    leal UDP_SRC(%rax), %ecx
    cmpl %r12d, %ecx                    # the datagram must lie within the packet
    ja 1f
    leal -16(%rax), %r15d               # bytes behind header and number
    testl %r15d, %r15d
    js 1f
    movl $UDP_DATA, %r12d               # the headers only; the reply has its own words
    call copy_to_reply
    movw UDP_SRC(%rbx), %ax
    movw %ax, UDP_DST(%r13)
    movw port, %ax
    movw %ax, UDP_SRC(%r13)
    movw $(8 + REPLY_BYTES) << 8, UDP_LENGTH(%r13)
    movw $0, UDP_CHECKSUM(%r13)
    incq count
    movq UDP_DATA(%rbx), %rax
    movq %rax, UDP_DATA(%r13)
    movq count, %rax
    movq %rax, UDP_DATA + 8(%r13)
    movq fnv_start, %rax
    leaq UDP_DATA(%r13), %rdi
    movl $16, %ecx
    call fnv1a
    leaq UDP_DATA + 8(%rbx), %rdi
    movl %r15d, %ecx
    call fnv1a
    movq %rax, UDP_DATA + 16(%r13)
    movl $UDP_DATA + REPLY_BYTES, %r12d
    call send_ip_reply
    decq report_left                    # from 0 it takes 2^64 requests to come back to 0
    jz report_count
1:  ret

report_count:
    movq report, %rax
    movq %rax, report_left
    leaq text_count(%rip), %rdi
    movq count, %rsi
    jmp put_line

# Waits for a free transmit buffer and copies the frame into it. Out: R13 = the reply's frame.
# Clobbers RAX, RCX, RDX, RSI, RDI.
copy_to_reply:
    leaq tx_queue(%rip), %rdi
1:  movzwl Q_AVAIL_IDX(%rdi), %eax
    subw Q_USED_IDX(%rdi), %ax          # frames the device has not sent yet
    cmpw $QUEUE_SIZE, %ax
    jb 2f
    pause
    jmp 1b
2:  movzwl Q_AVAIL_IDX(%rdi), %eax
    andl $QUEUE_MASK, %eax
    imull $BUFFER, %eax
    leaq tx_buffers + HEADER(%rax), %r13
    movq %r13, %rdi
    movq %rbx, %rsi
    movl %r12d, %ecx
    rep movsb
    ret

# R13 holds a copy of the request's IPv4 header: turn it round and send R12D bytes.
send_ip_reply:
    movl IP_SRC(%rbx), %eax
    movl %eax, IP_DST(%r13)
    movl ip, %eax
    movl %eax, IP_SRC(%r13)
    leal -IP(%r12), %eax
    xchgb %al, %ah
    movw %ax, IP_LENGTH(%r13)
    movb $64, IP_TTL(%r13)
    movw $0, IP_CHECKSUM(%r13)
    leaq IP(%r13), %rdi
    movl $IP_END - IP, %ecx
    call internet_checksum
    movw %ax, IP_CHECKSUM(%r13)

# Sends R12D bytes at R13 back to where the frame at RBX came from. The virtio header in front stays all zeros.
send_reply:
    movl ETH_SRC(%rbx), %eax
    movl %eax, ETH_DST(%r13)
    movw ETH_SRC + 4(%rbx), %ax
    movw %ax, ETH_DST + 4(%r13)
    movl mac, %eax
    movl %eax, ETH_SRC(%r13)
    movw mac + 4, %ax
    movw %ax, ETH_SRC + 4(%r13)
    leaq tx_queue(%rip), %rdi
    movzwl Q_AVAIL_IDX(%rdi), %eax
    andl $QUEUE_MASK, %eax
    movl %eax, %ecx
    shll $4, %ecx
    leal HEADER(%r12), %edx
    movl %edx, 8(%rdi, %rcx)
    jmp virtio_offer

# In: RDI = bytes, ECX = how many, at least one. Out: AX, in the order it is stored in. Clobbers RCX, RDX, RDI.
internet_checksum:
    xorl %eax, %eax
1:  cmpl $2, %ecx
    jb 2f
    movzwl (%rdi), %edx
    addl %edx, %eax
    addq $2, %rdi
    subl $2, %ecx
    jmp 1b
2:  testl %ecx, %ecx
    jz 3f
    movzbl (%rdi), %edx
    addl %edx, %eax
3:  movl %eax, %edx                     # fold twice: the first fold may carry
    shrl $16, %edx
    movzwl %ax, %eax
    addl %edx, %eax
    movl %eax, %edx
    shrl $16, %edx
    addl %edx, %eax
    notl %eax
    ret

    .section .rodata
key_ip:     .asciz "ip="
key_port:   .asciz "port="
key_mac:    .asciz "mac="
key_report: .asciz "report="
key_write:  .asciz "write="
text_ready: .asciz "ready mac="
text_count: .asciz "count="

    .bss
    .balign 0x1000
rx_queue:    .skip QUEUE_BYTES
tx_queue:    .skip QUEUE_BYTES
rx_buffers:  .skip QUEUE_SIZE * BUFFER
tx_buffers:  .skip QUEUE_SIZE * BUFFER
count:       .skip 8
write_bytes: .skip 8
write_at:    .skip 8
write_word:  .skip 8
mac:         .skip 8
report:      .skip 8
report_left: .skip 8
ip:          .skip 4
port:        .skip 2
