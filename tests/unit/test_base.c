/* SPDX-License-Identifier: MIT */
/* Errors, log, strings and option tables. */
#include "base/error.h"
#include "base/log.h"
#include "base/option.h"
#include "base/str.h"
#include "tests/tap.h"

#include <fcntl.h>
#include <unistd.h>

static void error_keeps_code_negative(void)
{
	struct vz_error e = { 0 };

	CHECK_EQ(err_set(&e, EINVAL, NULL, "a %d", 1), -EINVAL);
	CHECK_EQ(e.code, -EINVAL);
	CHECK_EQ(err_set(&e, -ENOENT, "x", "%s", "b"), -ENOENT);
	CHECK_STR(e.text, "b");
	CHECK_STR(e.where, "x");
	CHECK_EQ(err_set(NULL, EPERM, NULL, "c"), -EPERM);
}

static void error_prefixes(void)
{
	struct vz_error e = { 0 };

	err_set(&e, EIO, "path", "broken");
	CHECK_EQ(err_prefix(&e, "disk '%s'", "root"), -EIO);
	CHECK_STR(e.text, "disk 'root': broken");
	CHECK_EQ(err_where(&e, "devices[%d]", 2), -EIO);
	CHECK_STR(e.where, "devices[2].path");
	err_set(&e, EIO, NULL, "broken");
	err_where(&e, "memory");
	CHECK_STR(e.where, "memory");
	CHECK_EQ(err_prefix(NULL, "x"), -EIO);
}

static void error_may_quote_itself(void)
{
	struct vz_error e = { 0 };

	err_set(&e, EIO, "where", "old");
	err_set(&e, EINVAL, e.where, "new, was: %s", e.text);
	CHECK_STR(e.text, "new, was: old");
	CHECK_STR(e.where, "where");
}

static void error_text_is_cut(void)
{
	char big[2000];
	struct vz_error e = { 0 };

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&e, EIO, big, "%s", big);
	CHECK_EQ(strlen(e.text), VZ_ERROR_TEXT_SIZE - 1);
	CHECK_EQ(strlen(e.where), VZ_ERROR_WHERE_SIZE - 1);
	err_prefix(&e, "%s", big);
	err_where(&e, "%s", big);
	CHECK_EQ(strlen(e.text), VZ_ERROR_TEXT_SIZE - 1);
	CHECK_EQ(strlen(e.where), VZ_ERROR_WHERE_SIZE - 1);
}

static char last_line[256];
static int lines;

static void sink(void *arg, enum log_level level, const char *line)
{
	snprintf(last_line, sizeof(last_line), "%d %s", (int)level, line);
	lines++;
}

static void log_levels(void)
{
	log_error("nobody listens");
	CHECK(!log_enabled(LOG_ERROR));
	log_set_sink(LOG_INFO, sink, NULL);
	log_debug("dropped");
	CHECK_EQ(lines, 0);
	log_info("n=%d", 5);
	CHECK_STR(last_line, "1 n=5");
	log_error("evil \033[2J\nline");
	CHECK_STR(last_line, "0 evil ?[2J?line");
	log_set_sink(LOG_DEBUG, NULL, NULL);
	CHECK(!log_enabled(LOG_ERROR));
}

static void log_limits(void)
{
	struct log_limit limit = { 0 };

	lines = 0;
	log_set_sink(LOG_ERROR, sink, NULL);
	CHECK(log_allow(&limit, 2));
	CHECK(log_allow(&limit, 2));
	CHECK(!log_allow(&limit, 2));
	CHECK(!log_allow(&limit, 2));
	CHECK_EQ(lines, 0);
	limit.window_start -= 2000000000u;
	CHECK(log_allow(&limit, 2));
	CHECK_EQ(lines, 1);
	CHECK(strstr(last_line, "2 messages"));
	log_set_sink(LOG_ERROR, NULL, NULL);
}

static void strbuf_grows(void)
{
	struct strbuf b = { 0 };

	for (int i = 0; i < 1000; i++)
		strbuf_add(&b, "%03d", i);
	strbuf_addn(&b, "x\0y", 3);
	CHECK_EQ(b.len, 3003);
	CHECK(!b.failed);
	CHECK(!memcmp(b.text, "000001002", 9));
	CHECK_EQ(b.text[b.len], 0);
	strbuf_fini(&b);
	CHECK(!b.text);
}

static void numbers_are_strict(void)
{
	static const char *const bad[] = { "", " 1", "1 ", "-1", "+1", "0x", "1K", "a", "0b1",
		"1.0" };
	uint64_t v = 7;

	CHECK_EQ(parse_u64("18446744073709551615", &v), 0);
	CHECK(v == UINT64_MAX);
	CHECK_EQ(parse_u64("18446744073709551616", &v), -ERANGE);
	CHECK_EQ(parse_u64("0xfFfFfFfFfFfFfFfF", &v), 0);
	CHECK_EQ(parse_u64("0x10000000000000000", &v), -ERANGE);
	CHECK_EQ(parse_u64("010", &v), 0);
	CHECK_EQ(v, 10);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK_EQ(parse_u64(bad[i], &v), -EINVAL);
	CHECK_EQ(v, 10);
}

static void sizes_take_suffixes(void)
{
	uint64_t v = 0;

	CHECK_EQ(parse_size("512", &v), 0);
	CHECK_EQ(v, 512);
	CHECK_EQ(parse_size("4K", &v), 0);
	CHECK_EQ(v, 4096);
	CHECK_EQ(parse_size("3g", &v), 0);
	CHECK_EQ(v, 3ll << 30);
	CHECK_EQ(parse_size("16777215T", &v), 0);
	CHECK_EQ(parse_size("16777216T", &v), -ERANGE);
	CHECK_EQ(parse_size("1KB", &v), -EINVAL);
	CHECK_EQ(parse_size("K", &v), -EINVAL);
	CHECK_EQ(parse_size("1P", &v), -EINVAL);
}

static void booleans(void)
{
	bool b = false;

	CHECK_EQ(parse_bool("on", &b), 0);
	CHECK(b);
	CHECK_EQ(parse_bool("no", &b), 0);
	CHECK(!b);
	CHECK_EQ(parse_bool("ON", &b), -EINVAL);
	CHECK_EQ(parse_bool("", &b), -EINVAL);
}

static void nearest(void)
{
	static const char *const words[] = { "path", "readonly", "mac", "size", NULL };
	char big[300];

	CHECK_STR(nearest_word("paht", words), "path");
	CHECK_STR(nearest_word("read-only", words), "readonly");
	CHECK_STR(nearest_word("MAC", words), "mac");
	CHECK(!nearest_word("frobnicate", words));
	CHECK(!nearest_word("", words));
	CHECK(!nearest_word("zzz", words));
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	CHECK(!nearest_word(big, words));
}

static void str_replace_frees(void)
{
	char *s = NULL;

	CHECK_EQ(str_replace(&s, "a"), 0);
	CHECK_EQ(str_replace(&s, "bb"), 0);
	CHECK_STR(s, "bb");
	CHECK_EQ(str_replace(&s, NULL), 0);
	CHECK(!s);
}

struct thing {
	bool flag, boolean;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64, size;
	char *string;
	int word;
	uint8_t mac[6];
	int fd;
};

#define AT(f) offsetof(struct thing, f)
static const char *const modes[] = { "fast", "safe", "none", NULL };
static const struct option table[] = {
	{ "flag", OPT_FLAG, AT(flag) },
	{ "boolean", OPT_BOOL, AT(boolean), "on" },
	{ "mtu", OPT_U16, AT(u16), "1500", .min = 68, .max = 65535 },
	{ "count", OPT_U32, AT(u32) },
	{ "big", OPT_U64, AT(u64) },
	{ "memory", OPT_SIZE, AT(size), "1M", .min = 4096, .max = 1ull << 30 },
	{ "path", OPT_STRING, AT(string), .help = "file that holds it", .required = true },
	{ "mode", OPT_ENUM, AT(word), "safe", .words = modes },
	{ "mac", OPT_MAC, AT(mac) },
	{ "fd", OPT_FD, AT(fd) },
	{ NULL },
};

static void option_default_values(void)
{
	struct thing t = { 0 };

	CHECK_EQ(option_defaults(table, &t, NULL), 0);
	CHECK(!t.flag && t.boolean);
	CHECK_EQ(t.u16, 1500);
	CHECK_EQ(t.size, 1 << 20);
	CHECK_EQ(t.word, 1);
	CHECK_EQ(t.fd, -1);
	CHECK(!t.string);
	option_fini(table, &t);
}

static void option_every_type(void)
{
	struct thing t = { 0 };
	char number[16];
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	option_defaults(table, &t, NULL);
	CHECK_EQ(option_set(table, &t, "flag", NULL, NULL), 0);
	CHECK(t.flag);
	CHECK_EQ(option_set(table, &t, "boolean", "off", NULL), 0);
	CHECK(!t.boolean);
	CHECK_EQ(option_set(table, &t, "mtu", "0x1000", NULL), 0);
	CHECK_EQ(t.u16, 4096);
	CHECK_EQ(option_set(table, &t, "count", "4294967295", NULL), 0);
	CHECK_EQ(t.u32, UINT32_MAX);
	CHECK_EQ(option_set(table, &t, "big", "18446744073709551615", NULL), 0);
	CHECK(t.u64 == UINT64_MAX);
	CHECK_EQ(option_set(table, &t, "memory", "64K", NULL), 0);
	CHECK_EQ(t.size, 65536);
	CHECK_EQ(option_set(table, &t, "path", "/x", NULL), 0);
	CHECK_EQ(option_set(table, &t, "path", "/a=b", NULL), 0);
	CHECK_STR(t.string, "/a=b");
	CHECK_EQ(option_set(table, &t, "mode", "none", NULL), 0);
	CHECK_EQ(t.word, 2);
	CHECK_EQ(option_set(table, &t, "mac", "52:54:00:aB:Cd:01", NULL), 0);
	CHECK(!memcmp(t.mac, "\x52\x54\x00\xab\xcd\x01", 6));
	snprintf(number, sizeof(number), "%d", fd);
	CHECK_EQ(option_set(table, &t, "fd", number, NULL), 0);
	CHECK_EQ(option_set(table, &t, "fd", number, NULL), 0);
	CHECK(t.fd > 2 && t.fd != fd);
	CHECK_EQ(fcntl(t.fd, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(option_check(table, &t, NULL), 0);
	option_fini(table, &t);
	CHECK(!t.string);
	CHECK_EQ(t.fd, -1);
	close(fd);
}

static int refuse(const char *key, const char *value, const char *text)
{
	struct thing t = { 0 };
	struct vz_error e = { 0 };
	int r;

	option_defaults(table, &t, NULL);
	r = option_set(table, &t, key, value, &e);
	CHECK(r < 0);
	CHECK_EQ(e.code, r);
	CHECK_STR(e.where, key);
	if (!strstr(e.text, text)) {
		printf("# \"%s\" lacks \"%s\"\n", e.text, text);
		CHECK(!"the reason is told");
	}
	option_fini(table, &t);
	return r;
}

static void option_refusals(void)
{
	CHECK_EQ(refuse("paht", "x", "did you mean 'path'?"), -EINVAL);
	CHECK_EQ(refuse("zzzzzzzzz", "x", "choose one of 'flag', 'boolean',"), -EINVAL);
	refuse("flag", "on", "takes no value");
	refuse("path", NULL, "needs a value");
	refuse("boolean", "maybe", "neither");
	refuse("mtu", "67", "from 68 to 65535");
	CHECK_EQ(refuse("mtu", "65536", "out of range"), -ERANGE);
	refuse("mtu", "-1", "not a number");
	refuse("count", "4294967296", "from 0 to 4294967295");
	refuse("big", "18446744073709551616", "out of range");
	refuse("memory", "2G", "from 4K to 1G");
	refuse("memory", "12Q", "not a size");
	refuse("mode", "saef", "did you mean 'safe'?");
	refuse("mac", "52:54:00:ab:cd", "not a MAC");
	refuse("mac", "52:54:00:ab:cd:0", "not a MAC");
	refuse("mac", "52:54:00:ab:cd:01:", "not a MAC");
	refuse("mac", "01:00:00:00:00:01", "one interface");
	refuse("mac", "00:00:00:00:00:00", "one interface");
	refuse("fd", "x", "not a file descriptor");
	CHECK_EQ(refuse("fd", "12345678", "file descriptor 12345678"), -EBADF);
}

static void option_required(void)
{
	struct thing t = { 0 };
	struct vz_error e = { 0 };

	option_defaults(table, &t, NULL);
	CHECK_EQ(option_check(table, &t, &e), -EINVAL);
	CHECK_STR(e.where, "path");
	CHECK(strstr(e.text, "file that holds it"));
	option_fini(table, &t);
}

int main(void)
{
	RUN(error_keeps_code_negative);
	RUN(error_prefixes);
	RUN(error_may_quote_itself);
	RUN(error_text_is_cut);
	RUN(log_levels);
	RUN(log_limits);
	RUN(strbuf_grows);
	RUN(numbers_are_strict);
	RUN(sizes_take_suffixes);
	RUN(booleans);
	RUN(nearest);
	RUN(str_replace_frees);
	RUN(option_default_values);
	RUN(option_every_type);
	RUN(option_refusals);
	RUN(option_required);
	return tap_done();
}
