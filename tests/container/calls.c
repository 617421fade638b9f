/* Make system calls as the arguments say: NUMBER ARG... [-- NUMBER ARG...]; an ARG is s:TEXT, r:N (result of call N) or a number.
 * Prints "result errno" for each. h:FLAGS,MODE,RESOLVE is a struct open_how, a:SET,CLR,PROPAGATION,FD a struct mount_attr. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned long long room[64][4];

int main(int argc, char **argv)
{
	long results[64], count = 0, args[7] = {0};
	int n = 0, rooms = 0;
	for (int i = 1; i <= argc; i++) {
		if (i == argc || !strcmp(argv[i], "--")) {
			errno = 0;
			long result = syscall(args[0], args[1], args[2], args[3], args[4], args[5], args[6]);
			results[count++] = result;
			printf("%ld %d\n", result, errno);
			fflush(stdout);
			memset(args, 0, sizeof args);
			n = 0;
			continue;
		}
		char *word = argv[i];
		if (!strncmp(word, "s:", 2))
			args[n++] = (long)(word + 2);
		else if (!strncmp(word, "r:", 2))
			args[n++] = results[atoi(word + 2)];
		else if (!strncmp(word, "h:", 2) || !strncmp(word, "a:", 2)) {
			unsigned long long *at = room[rooms++];
			sscanf(word + 2, "%llu,%llu,%llu,%llu", at, at + 1, at + 2, at + 3);
			args[n++] = (long)at;
		} else
			args[n++] = strtol(word, NULL, 0);
	}
	return 0;
}
