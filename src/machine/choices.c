/* SPDX-License-Identifier: MIT */
/* What there is to choose from: device classes with their options, and engines; for help texts. */
#include "base/arith.h"
#include "base/error.h"
#include "base/str.h"
#include "device/device.h"
#include "machine/config.h"

#include <stdio.h>
#include <string.h>

bool vz_device_class(unsigned index, vz_class_info *info)
{
	for (unsigned i = 0; device_classes[i]; i++) {
		if (i == index) {
			info->name = device_classes[i]->name;
			info->summary = device_classes[i]->summary;
			return true;
		}
	}
	return false;
}

static const char *option_type_name(const struct option *o)
{
	static const char *const names[] = {
		[OPT_FLAG] = "flag",
		[OPT_BOOL] = "on|off",
		[OPT_U16] = "number",
		[OPT_U32] = "number",
		[OPT_U64] = "number",
		[OPT_SIZE] = "size",
		[OPT_STRING] = "string",
		[OPT_MAC] = "MAC address",
		[OPT_FD] = "descriptor",
	};

	return names[o->type];
}

/*
 * "image|dev": made on first use, kept for ever, as the interface promises. One thread at a time
 * asks.
 */
static const char *enum_type_name(const struct option *o)
{
	static struct {
		const struct option *option;
		char text[64];
	} made[16];
	unsigned i = 0;

	while (i < ARRAY_SIZE(made) && made[i].option && made[i].option != o)
		i++;
	if (i == ARRAY_SIZE(made))
		return "word";
	if (!made[i].option) {
		struct strbuf b = { 0 };

		for (unsigned w = 0; o->words[w]; w++)
			strbuf_add(&b, "%s%s", w ? "|" : "", o->words[w]);
		snprintf(made[i].text, sizeof(made[i].text), "%s", b.failed ? "word" : b.text);
		strbuf_fini(&b);
		made[i].option = o;
	}
	return made[i].text;
}

bool vz_device_class_option(const char *class_name, unsigned index, vz_option_info *info)
{
	const struct device_class *class = device_find(class_name);

	if (!class || !class->options)
		return false;
	for (unsigned i = 0; class->options[i].name; i++) {
		const struct option *o = &class->options[i];

		if (i != index)
			continue;
		*info = (vz_option_info){
			.name = o->name,
			.type = o->type == OPT_ENUM ? enum_type_name(o) : option_type_name(o),
			.def = o->def,
			.help = o->help,
			.required = o->required,
		};
		return true;
	}
	return false;
}

bool vz_engine_probe(unsigned index, vz_engine_info *info)
{
	for (unsigned i = 0; engine_classes[i]; i++) {
		struct vz_error e = { 0 };

		if (i != index)
			continue;
		*info = (vz_engine_info){
			.name = engine_classes[i]->name,
			.summary = engine_classes[i]->summary,
			.works = !engine_classes[i]->probe(&e),
		};
		if (info->works && engine_classes[i]->advise)
			engine_classes[i]->advise(&e);
		snprintf(info->reason, sizeof(info->reason), "%s", e.text);
		return true;
	}
	return false;
}

const struct engine_class *config_engine(const char *name, char *why, size_t why_size,
	struct vz_error *e)
{
	bool any = !strcmp(name, "auto");
	struct strbuf refused = { 0 };

	for (unsigned i = 0; engine_classes[i]; i++) {
		const struct engine_class *class = engine_classes[i];
		struct vz_error reason = { 0 };
		bool works;

		if (!any && strcmp(name, class->name))
			continue;
		works = !class->probe(&reason);
		if (works && !(any && class->advise && class->advise(&reason))) {
			snprintf(why, why_size, "%s",
				!any             ? "asked for"
				: !refused.len   ? "works here"
				: refused.failed ? "the first that works"
						 : refused.text);
			strbuf_fini(&refused);
			return class;
		}
		strbuf_add(&refused, "%s%s %s here: %s", refused.len ? "; " : "", class->name,
			works ? "would be slow" : "does not work", reason.text);
	}
	err_set(e, ENOTSUP, "engine", "%s", refused.text ? refused.text : "no such engine");
	strbuf_fini(&refused);
	return NULL;
}
