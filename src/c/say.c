/* Printing without stdio: one write a line, nothing that could forge a second line. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "init.h"

struct text {
	char bytes[2 * LINE_LIMIT];
	size_t used;
};

static void append(struct text *text, const char *part)
{
	/* The last byte is kept for the newline. Longer lines are cut. */
	for (; *part && text->used < sizeof(text->bytes) - 1; part++) {
		bool printable = *part >= ' ' && *part <= '~';

		text->bytes[text->used++] = printable ? *part : '?';
	}
}

/*
 * Prints "chrek: ", the parts and a newline on stderr. The last argument is NULL. Parts may come
 * from the agent or the command line: whatever is not printable ASCII becomes '?'.
 */
void say(const char *part, ...)
{
	struct text text = {.used = 0};
	va_list parts;

	append(&text, "chrek: ");
	va_start(parts, part);
	for (; part; part = va_arg(parts, const char *))
		append(&text, part);
	va_end(parts);
	text.bytes[text.used++] = '\n';

	/* A log that cannot be written must not keep a worker from starting. */
	for (size_t done = 0; done < text.used;) {
		ssize_t count = write(STDERR_FILENO, text.bytes + done, text.used - done);

		if (count < 0 && errno != EINTR)
			return;
		if (count > 0)
			done += (size_t)count;
	}
}

const char *decimal(char buffer[24], long number)
{
	unsigned long rest = number < 0 ? -(unsigned long)number : (unsigned long)number;
	char *digit = buffer + 23;

	*digit = '\0';
	do {
		*--digit = (char)('0' + rest % 10);
		rest /= 10;
	} while (rest);
	if (number < 0)
		*--digit = '-';
	return digit;
}
