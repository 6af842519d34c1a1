/* Checks of the C tests: a failed one says where, and what the library said. For one thread. */
#ifndef CHECK_H
#define CHECK_H

#include "aieng.h"

#include <stdio.h>
#include <string.h>

static int checks, failures;

#define EXPECT(call, wanted, words) expect((call), (wanted), (words), #call, __LINE__)
#define CHECK(condition) check_true((condition) != 0, #condition, __LINE__)

static void check_true(int holds, const char *what, int line) {
  checks++;
  if (holds) return;
  failures++;
  printf("line %d: %s does not hold\n", line, what);
}

/* The call gave the wanted status and, for an error, a message with these words in it. */
static void expect(aieng_status status, aieng_status wanted, const char *words, const char *what, int line) {
  checks++;
  if (status == wanted && (status <= AIENG_TIMEOUT || strstr(aieng_last_error(), words))) return;
  failures++;
  printf("line %d: %s: %s \"%s\", but wanted %s with \"%s\"\n", line, what, aieng_status_name(status),
         aieng_last_error(), aieng_status_name(wanted), words);
}

static int report(void) {
  printf("%d checks, %d failures\n", checks, failures);
  return failures != 0;
}

#endif
