/* The words of a line from the agent. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "init.h"

enum { REASON_LIMIT = 64, NONCE_LIMIT = 128 };

/* Cuts the first word off *rest. Returns "" at the end. */
char *next_word(char **rest)
{
	char *word = *rest;
	char *space = strchr(word, ' ');

	if (space) {
		*space = '\0';
		*rest = space + 1;
	} else {
		*rest = word + strlen(word);
	}
	return word;
}

/* Plain decimal digits only: no sign, no space, nothing after them. */
bool parse_number(const char *text, long least, long most, long *number)
{
	size_t length = strspn(text, "0123456789");

	if (length == 0 || length > 9 || text[length] != '\0')
		return false;
	*number = strtol(text, NULL, 10);
	return *number >= least && *number <= most;
}

bool is_nonce(const char *text)
{
	size_t length = strspn(text, "0123456789abcdefABCDEF");

	return length > 0 && length <= NONCE_LIMIT && text[length] == '\0';
}

static bool is_reason(const char *text)
{
	size_t length = 0;

	while (isalnum((unsigned char)text[length]))
		length++;
	return length > 0 && length <= REASON_LIMIT && text[length] == '\0';
}

/* "<Reason> <message>". Readers of logs match on the Reason, so nothing else is let through. */
struct verdict parse_verdict(char *rest)
{
	const char *reason = next_word(&rest);
	const char *message = *rest ? rest : "no message";

	if (is_reason(reason))
		return (struct verdict){reason, message, ""};
	return (struct verdict){"AgentProtocol", "the agent gave no valid reason", ""};
}
