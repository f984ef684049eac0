// Clients of an OpenAI-compatible server: one thread, epoll, HTTP/1.1 with keep-alive.
//
// usage: client PORT CONNECTIONS SECONDS BODY_BYTES MODEL STREAM RATE KEY
// With RATE 0 every connection asks again as soon as it is answered; otherwise RATE requests a second are asked,
// whoever is free, and what waits for a connection counts as latency. STREAM is 1 for streamed answers, whose events
// carry "@@<microseconds>@@" and which begin spread over a second. KEY may be "-". The first second is not counted.
// Prints one JSON object: requests and tokens, errors, and percentiles in microseconds of the answer's time, the first
// byte's and the tokens' way.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 65536 };

typedef struct {
  int fd, connected, busy, status, length, done, chunked, want;
  long long asked, first;
  char in[ROOM];
} Client;

typedef struct {
  unsigned *values;
  long count, room;
} Sample;

static Sample whole, first_byte, token_way;
static long long requests, answered_tokens, errors;
static char *request;
static int request_size, port, streamed, poller, warm;
static double rate;
static long long next_due;

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void note(Sample *s, long long value) {
  if (!warm) return;
  if (s->count == s->room) s->values = realloc(s->values, sizeof(unsigned) * (s->room = s->room * 2 + 1024));
  s->values[s->count++] = value < 0 ? 0 : (unsigned)value;
}

static int ascending(const void *a, const void *b) {
  unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
  return x < y ? -1 : x > y;
}

static void print(const char *name, Sample *s) {
  if (s->count) qsort(s->values, s->count, sizeof(unsigned), ascending);
  printf(",\"%s_p50_us\":%u,\"%s_p99_us\":%u", name, s->count ? s->values[(s->count - 1) / 2] : 0, name,
         s->count ? s->values[(long)((s->count - 1) * 0.99)] : 0);
}

static void reconnect(Client *c) {
  if (c->fd > 0) close(c->fd);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  connect(c->fd, (void *)&address, sizeof address);
  c->connected = c->busy = 0;
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void ask(Client *c, long long since) {
  c->asked = since, c->busy = 1, c->status = c->length = c->done = c->chunked = c->first = 0, c->want = -1;
  for (int sent = 0; sent < request_size;) {
    int some = send(c->fd, request + sent, request_size - sent, MSG_NOSIGNAL);
    if (some < 0 && errno == EAGAIN) {
      usleep(20);
      continue;
    }
    if (some <= 0) {
      errors += warm;
      reconnect(c);
      return;
    }
    sent += some;
  }
}

static void ask_when_due(Client *c) {
  if (rate == 0) ask(c, now());
  else if (next_due <= now()) {
    ask(c, next_due);
    next_due += 1e6 / rate;
  }
}

static void answered(Client *c) {
  c->busy = 0;
  if (c->status == 200) requests += warm, note(&whole, now() - c->asked);
  else errors += warm;
  if (rate == 0) ask_when_due(c);
}

// Read tokens out of what has arrived and keep what may be the beginning of one.
static void read_tokens(Client *c) {
  char *from = c->in, *mark;
  while ((mark = memmem(from, c->in + c->length - from, "@@", 2)) && mark + 19 <= c->in + c->length) {
    if (mark[17] == '@' && mark[18] == '@') {
      long long time = now();
      if (!c->first) c->first = time, note(&first_byte, time - c->asked);
      note(&token_way, time - atoll(mark + 2));
      answered_tokens += warm;
      from = mark + 19;
    } else from = mark + 2;
  }
  if (memmem(c->in, c->length, "[DONE]", 6)) c->done = 1;
  int ended = c->done && c->length >= 5 && !memcmp(c->in + c->length - 5, "0\r\n\r\n", 5);
  int rest = c->in + c->length - from, keep = rest < 64 ? rest : 64;
  memmove(c->in, c->in + c->length - keep, keep);
  c->length = keep;
  if (ended) answered(c);
}

static void read_head(Client *c) {
  c->in[c->length] = 0;
  char *blank = strstr(c->in, "\r\n\r\n");
  if (!blank) return;
  c->status = atoi(c->in + 9);
  char *announced = strcasestr(c->in, "\r\ncontent-length:");
  c->want = announced && announced < blank ? atoi(announced + 17) : -1;
  c->chunked = c->want < 0;
  if (c->status != 200) {
    static int shown;
    if (shown++ < 3) fprintf(stderr, "%.400s\n", c->in);
  }
  int head = blank + 4 - c->in;
  memmove(c->in, c->in + head, c->length -= head);
  if (!streamed) note(&first_byte, now() - c->asked);
}

static void hear(Client *c) {
  int got = recv(c->fd, c->in + c->length, ROOM - c->length - 1, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    if (c->busy) errors += warm;
    reconnect(c);
    return;
  }
  c->length += got;
  if (!c->status) read_head(c);
  if (!c->status) return;
  if (streamed && c->status == 200) read_tokens(c);
  else if (c->chunked ? c->length >= 5 && !memcmp(c->in + c->length - 5, "0\r\n\r\n", 5) : c->length >= c->want)
    answered(c);
}

int main(int count, char **words) {
  if (count != 9) return fprintf(stderr, "usage: client PORT CONNECTIONS SECONDS BODY_BYTES MODEL STREAM RATE KEY\n"), 2;
  signal(SIGPIPE, SIG_IGN);
  port = atoi(words[1]), streamed = atoi(words[6]), rate = atof(words[7]);
  int clients = atoi(words[2]), seconds = atoi(words[3]), padding = atoi(words[4]);
  char *text = malloc(padding + 1), *body, key[300] = "";
  memset(text, 'x', padding), text[padding] = 0;
  if (strcmp(words[8], "-")) snprintf(key, sizeof key, "Authorization: Bearer %s\r\n", words[8]);
  int size = asprintf(&body, "{\"model\":\"%s\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                      words[5], streamed ? "true" : "false", text);
  request_size = asprintf(&request,
                          "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                          "%sContent-Length: %d\r\n\r\n%s",
                          port, key, size, body);
  poller = epoll_create1(0);
  Client *all = calloc(clients, sizeof *all);
  long long begin = now(), counted = begin + 1000000, end = counted + seconds * 1000000LL;
  next_due = begin;
  int opened = 0;
  struct epoll_event events[512];
  for (long long time; (time = now()) < end;) {
    warm = time >= counted;
    while (opened < clients && (!streamed || time >= begin + opened * 1000000LL / clients)) reconnect(&all[opened++]);
    int found = epoll_wait(poller, events, 512, rate || opened < clients ? 1 : 10);
    for (int i = 0; i < found; i++) {
      Client *c = events[i].data.ptr;
      if (c->connected) {
        hear(c);
        continue;
      }
      c->connected = 1;
      struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
      epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
      if (rate == 0) ask_when_due(c);
    }
    if (rate)
      for (int i = 0; i < opened && next_due <= now(); i++)
        if (all[i].connected && !all[i].busy) ask_when_due(&all[i]);
  }
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
  printf("{\"requests\":%lld,\"tokens\":%lld,\"errors\":%lld,\"seconds\":%d,\"client_cpu\":%.2f", requests,
         answered_tokens, errors, seconds, cpu / (seconds + 1));
  print("answer", &whole), print("first", &first_byte), print("token", &token_way);
  printf("}\n");
}
