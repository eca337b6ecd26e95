/* Forwards bytes and descriptors between two connected stream sockets until one of them ends:
 *
 *     forward FD FD
 *
 * The least that anything between a client and a worker can do; see relay.py. */

#define _GNU_SOURCE
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE_BYTES = 64 << 10, DESCRIPTORS_MAX = 4 };

static void send_all(int to, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(to, data, size, MSG_NOSIGNAL);
        if (sent < 0) exit(1);
        data += sent;
        size -= (size_t)sent;
    }
}

/* Passes on what has come. A descriptor came with the last byte, and goes on with it. */
static void forward(int from, int to) {
    static char data[PIECE_BYTES];
    union {
        char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec piece = {data, sizeof data};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
    };
    ssize_t size = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    if (size <= 0) exit(size < 0);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (rights == NULL) {
        send_all(to, data, (size_t)size);
        return;
    }
    send_all(to, data, (size_t)size - 1);
    struct iovec carrier = {data + size - 1, 1};
    struct msghdr onward = {
        .msg_iov = &carrier, .msg_iovlen = 1,
        .msg_control = control.bytes, .msg_controllen = message.msg_controllen,
    };
    if (sendmsg(to, &onward, MSG_NOSIGNAL) != 1) exit(1);
    for (size_t at = 0; at + CMSG_LEN(0) < rights->cmsg_len; at += sizeof(int)) {
        int descriptor;
        memcpy(&descriptor, CMSG_DATA(rights) + at, sizeof descriptor);
        close(descriptor);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    struct pollfd ends[2] = {
        {.fd = atoi(argv[1]), .events = POLLIN}, {.fd = atoi(argv[2]), .events = POLLIN},
    };
    while (poll(ends, 2, -1) > 0) {
        if (ends[0].revents) forward(ends[0].fd, ends[1].fd);
        if (ends[1].revents) forward(ends[1].fd, ends[0].fd);
    }
    return 1;
}
