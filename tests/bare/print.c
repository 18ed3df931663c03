/* SPDX-License-Identifier: MIT */
/* Output of the bare-metal runtime: characters to port 0xe9, TAP, and what the compiler calls. */
#include "bare.h"
#include <stdarg.h>

static unsigned count, failed;
static bool current_bad;

static void put(char c)
{
	outb(0xe9, (uint8_t)c);
}

static void put_number(uint64_t v, unsigned base, bool negative)
{
	char digits[24];
	unsigned n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (negative)
		put('-');
	while (n)
		put(digits[--n]);
}

/* %s %c %d %u %x %lx %lu */
void printf(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	for (; *format; format++) {
		bool wide = false;

		if (*format != '%') {
			put(*format);
			continue;
		}
		if (*++format == 'l') {
			wide = true;
			format++;
		}
		if (*format == 's') {
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
		} else if (*format == 'c') {
			put((char)va_arg(ap, int));
		} else if (*format == 'd') {
			int v = va_arg(ap, int);

			put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0);
		} else {
			uint64_t v = wide ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);

			put_number(v, *format == 'x' ? 16 : 10, false);
		}
	}
	va_end(ap);
}

void bare_exit(int code)
{
	for (;;) {
		outl(0xf4, (uint32_t)code);
		__asm__ volatile("cli; hlt");
	}
}

void tap_check(bool ok, const char *file, int line, const char *text)
{
	if (ok)
		return;
	printf("# %s:%d: CHECK(%s)\n", file, line, text);
	current_bad = true;
}

void tap_equal(uint64_t a, uint64_t b, const char *file, int line, const char *an, const char *bn)
{
	if (a == b)
		return;
	printf("# %s:%d: %s is 0x%lx, not %s: 0x%lx\n", file, line, an, a, bn, b);
	current_bad = true;
}

void tap_run(void (*fn)(void), const char *name)
{
	current_bad = false;
	fn();
	printf("%sok %u - %s\n", current_bad ? "not " : "", ++count, name);
	failed += current_bad;
}

void tap_skip(const char *name, const char *why)
{
	printf("ok %u - %s # SKIP %s\n", ++count, name, why);
}

int tap_done(void)
{
	printf("1..%u\n", count);
	return failed ? 1 : 0;
}

void *memcpy(void *to, const void *from, size_t n)
{
	uint8_t *t = to;
	const uint8_t *f = from;

	while (n--)
		*t++ = *f++;
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	uint8_t *t = to;

	while (n--)
		*t++ = (uint8_t)byte;
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x < *y ? -1 : 1;
	return 0;
}
