// An OpenAI-compatible server that computes nothing: one thread, epoll, HTTP/1.1 with keep-alive.
//
// usage: upstream PORT TOKENS INTERVAL_US
// A body with "stream":true is answered with TOKENS events, one per interval (all at once for 0), each carrying a
// monotonic time stamp as "@@<microseconds>@@"; any other request is answered with one JSON object. Where the
// request says "x-ax-usage: continuous", every sixteenth event carries the usage so far, as the frontend's events do.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536 };

typedef struct {
  int fd, length, room, streaming, counted, sent, place;
  long long due;
  char *in;
} Connection;

static Connection *open_ones[MOST], *streaming_ones[MOST];
static int streams, tokens, interval, poller;

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void end_stream(Connection *c) {
  streaming_ones[c->place] = streaming_ones[--streams];
  streaming_ones[c->place]->place = c->place;
  c->streaming = 0;
}

static void hang_up(Connection *c) {
  if (c->streaming) end_stream(c);
  open_ones[c->fd] = NULL;
  close(c->fd);
  free(c->in);
  free(c);
}

static int put(Connection *c, const char *data, int size) {
  while (size > 0) {
    int sent = send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) {
      usleep(50);
      continue;
    }
    if (sent <= 0) return -1;
    data += sent, size -= sent;
  }
  return 0;
}

static int put_chunk(Connection *c, const char *data, int size) {
  char framed[1024];
  int length = snprintf(framed, sizeof framed, "%x\r\n%s\r\n", size, data);
  return put(c, framed, length);
}

static int put_event(Connection *c) {
  char event[768], usage[128] = "";
  if (c->counted && c->sent % 16 == 15)
    snprintf(usage, sizeof usage, ",\"usage\":{\"completion_tokens\":%d}", c->sent + 1);
  int size = snprintf(event, sizeof event,
                      "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\","
                      "\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
                      "\"@@%015lld@@\"},\"logprobs\":null,\"finish_reason\":null}]%s}\n\n",
                      now(), usage);
  c->sent++;
  return put_chunk(c, event, size);
}

static int put_end(Connection *c) {
  const char *last =
      "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":"
      "1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{"
      "\"prompt_tokens\":10,\"completion_tokens\":100,\"total_tokens\":110}}\n\ndata: [DONE]\n\n";
  return put_chunk(c, last, strlen(last)) || put(c, "0\r\n\r\n", 5);
}

static int put_json(Connection *c, int models) {
  const char *list = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\"}]}";
  const char *answer =
      "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\","
      "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Lorem ipsum dolor sit amet, "
      "consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna aliqua.\"},\"logprobs\":"
      "null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":50,\"total_tokens\":60}}";
  const char *body = models ? list : answer;
  char whole[2048];
  int size = snprintf(whole, sizeof whole,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                      strlen(body), body);
  return put(c, whole, size);
}

// Answer what has arrived whole; return -1 where the connection is gone.
static int answer(Connection *c) {
  while (!c->streaming) {
    c->in[c->length] = 0;
    char *blank = strstr(c->in, "\r\n\r\n");
    if (!blank) return 0;
    int head = blank - c->in + 4, whole = head;
    *blank = 0;
    char *announced = strcasestr(c->in, "\r\ncontent-length:");
    int chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != NULL;
    int counted = strcasestr(c->in, "\r\nx-ax-usage: continuous") != NULL;
    int get = !strncmp(c->in, "GET ", 4);
    *blank = '\r';
    if (announced) whole += atoi(announced + 17);
    if (chunked) {
      char *end = strstr(c->in + head - 2, "\r\n0\r\n\r\n");
      if (!end) return 0;
      whole = end + 7 - c->in;
    }
    if (c->length < whole) return 0;
    char kept = c->in[whole];
    c->in[whole] = 0;
    int streamed = !get && (strstr(c->in + head, "\"stream\":true") || strstr(c->in + head, "\"stream\": true"));
    c->in[whole] = kept;
    memmove(c->in, c->in + whole, c->length - whole);
    c->length -= whole;
    if (!streamed) {
      if (put_json(c, get)) return -1;
      continue;
    }
    const char *start =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: "
        "chunked\r\n\r\n";
    if (put(c, start, strlen(start))) return -1;
    c->sent = 0, c->counted = counted;
    if (interval == 0) {
      while (c->sent < tokens)
        if (put_event(c)) return -1;
      if (put_end(c)) return -1;
      continue;
    }
    c->streaming = 1, c->due = now(), c->place = streams;
    streaming_ones[streams++] = c;
  }
  return 0;
}

static void take_in(int listener) {
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
    if (fd >= MOST) {
      close(fd);
      continue;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    Connection *c = calloc(1, sizeof *c);
    c->fd = fd, c->room = 8192, c->in = malloc(c->room + 1);
    open_ones[fd] = c;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
  }
}

static void hear(Connection *c) {
  if (c->room - c->length < 8192) c->in = realloc(c->in, (c->room *= 2) + 1);
  int got = recv(c->fd, c->in + c->length, c->room - c->length, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    hang_up(c);
    return;
  }
  c->length += got;
  if (answer(c)) hang_up(c);
}

static void go_on(void) {
  long long time = now();
  for (int i = 0; i < streams;) {
    Connection *c = streaming_ones[i];
    if (c->due > time) {
      i++;
      continue;
    }
    c->due += interval;
    if (c->sent < tokens) {
      if (put_event(c)) hang_up(c);
      else i++;
      continue;
    }
    end_stream(c);
    if (put_end(c) || answer(c)) hang_up(c);
  }
}

int main(int count, char **words) {
  if (count != 4) return fprintf(stderr, "usage: upstream PORT TOKENS INTERVAL_US\n"), 2;
  signal(SIGPIPE, SIG_IGN);
  tokens = atoi(words[2]), interval = atoi(words[3]);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 8192)) return perror("listen"), 1;
  poller = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int found = epoll_wait(poller, events, 512, streams ? 1 : 1000);
    for (int i = 0; i < found; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) take_in(listener);
      else if (open_ones[fd]) hear(open_ones[fd]);
    }
    if (streams) go_on();
  }
}
