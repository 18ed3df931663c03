/* SPDX-License-Identifier: MIT */
/*
 * Console device (virtio 1.4 section 5.3) with port 0. Nothing is buffered here: output that the
 * host does not take stays in the guest's buffers, and input is read when the guest has buffers for
 * it.
 */
#include "device/console.h"

#include "base/arith.h"
#include "base/error.h"
#include "base/le.h"
#include "device/device.h"
#include "state/state.h"

#include <stdlib.h>
#include <unistd.h>

#define QUEUE_SIZE 128
#define PORTS      1

/* Section 5.3.3. */
#define CONSOLE_F_SIZE        0
#define CONSOLE_F_EMERG_WRITE 2

/* Section 5.3.4. */
#define CONFIG_COLS     0
#define CONFIG_ROWS     2
#define CONFIG_PORTS    4
#define CONFIG_EMERG_WR 8
#define CONFIG_SIZE     12

/* What is moved before others have their turn. */
#define OUTPUT_BYTES (256u << 10)
#define INPUT_CHAINS 16
#define INPUT_BYTES  4096

struct port {
	struct serial *serial;
	unsigned id;
	struct console *con;
	struct chain *in, *out;
	bool out_pending;   /* out was popped and is not done */
	uint16_t skip_head; /* the head of a chain that was given back partly written, */
	uint32_t skip;      /* and how much of it the host has taken */
	bool want_in, want_out, eof;
};

struct serial {
	struct vdev dev;
	bool stdio, pty;
	char *log_path;
	bool sized;     /* the host's side is a terminal */
	bool size_told; /* since the device was started */
	struct port ports[PORTS];
};

static struct serial *serial_of(struct vdev *dev)
{
	return container_of(dev, struct serial, dev);
}

/* Section 5.3.2: port 0 has queues 0 and 1, the control queues are 2 and 3, port 1 has 4 and 5… */
static struct virtqueue *in_queue(const struct port *p)
{
	return &p->serial->dev.queues[p->id ? 2 * p->id + 2 : 0];
}

static struct virtqueue *out_queue(const struct port *p)
{
	return in_queue(p) + 1;
}

static void update_want(struct port *p)
{
	/* Of a device that broke there is no stop but the next reset. */
	if (!p->serial->dev.running)
		p->want_in = p->want_out = false;
	console_want(p->con, p->want_in && !p->eof, p->want_out);
}

/* What became of a chain of output. */
enum outcome { ALL_TAKEN, BLOCKED, TURN_OVER };

static enum outcome output_chain(struct port *p, size_t *budget)
{
	struct chain *c = p->out;

	while (chain_left_read(c)) {
		struct iovec iov;
		size_t bytes;
		ssize_t n;

		if (!*budget)
			return TURN_OVER;
		if (!chain_iov_read(c, &iov, 1, &bytes))
			break;
		n = console_write(p->con, iov.iov_base, MIN(bytes, *budget));
		/* Nobody will ever take it: the guest must not wait for that. */
		if (n < 0)
			break;
		if (!n)
			return BLOCKED;
		chain_skip_read(c, (size_t)n);
		*budget -= (size_t)n;
	}
	return ALL_TAKEN;
}

/*
 * Linux takes the size from the config space only when told that it changed, and at its first
 * output it can be told.
 */
static void tell_size(struct serial *serial)
{
	if (serial->size_told || !vdev_has(&serial->dev, CONSOLE_F_SIZE))
		return;
	serial->size_told = true;
	vdev_config_changed(&serial->dev);
}

static bool next_output(struct port *p)
{
	if (p->out_pending)
		return true;
	if (vq_pop(out_queue(p), p->out) <= 0)
		return false;
	p->out_pending = true;
	tell_size(p->serial);
	if (p->skip && p->skip_head == p->out->head)
		chain_skip_read(p->out, MIN((size_t)p->skip, chain_left_read(p->out)));
	p->skip = 0;
	return true;
}

static void port_output(struct port *p)
{
	enum outcome outcome = ALL_TAKEN;
	size_t budget = OUTPUT_BYTES;

	while (next_output(p) && (outcome = output_chain(p, &budget)) == ALL_TAKEN) {
		chain_done(p->out);
		p->out_pending = false;
	}
	if (outcome == TURN_OVER)
		vdev_kick_again(out_queue(p));
	p->want_out = outcome == BLOCKED;
	update_want(p);
	vq_notify(out_queue(p));
}

/* One read of the host for each chain. False: no more for now. */
static bool input_chain(struct port *p)
{
	char bytes[INPUT_BYTES];
	ssize_t n;

	if (vq_pop(in_queue(p), p->in) <= 0) {
		p->want_in = false;
		return false;
	}
	if (!chain_left_write(p->in)) {
		chain_done(p->in);
		return true;
	}
	/* Not read into the guest's memory: the application's filter looks at it first. */
	n = console_read(p->con, bytes, MIN(chain_left_write(p->in), sizeof(bytes)));
	if (n <= 0) {
		chain_unpop(p->in);
		p->eof = n < 0;
		return false;
	}
	chain_write(p->in, bytes, (size_t)n);
	chain_done(p->in);
	return true;
}

static void port_readable(void *arg)
{
	struct port *p = arg;

	for (unsigned n = 0; p->serial->dev.running && n < INPUT_CHAINS && input_chain(p); n++)
		;
	update_want(p);
	vq_notify(in_queue(p));
}

static void port_writable(void *arg)
{
	port_output(arg);
}

static void serial_kick(struct vdev *dev, struct virtqueue *vq)
{
	struct serial *serial = serial_of(dev);

	for (unsigned i = 0; i < PORTS; i++) {
		struct port *p = &serial->ports[i];

		if (vq == out_queue(p)) {
			port_output(p);
		} else if (vq == in_queue(p)) {
			p->want_in = true;
			update_want(p);
		}
	}
}

static void serial_quiesce(struct vdev *dev)
{
	struct serial *serial = serial_of(dev);

	for (unsigned i = 0; i < PORTS; i++) {
		struct port *p = &serial->ports[i];

		update_want(p);
		if (!p->out_pending)
			continue;
		p->out_pending = false;
		p->skip_head = p->out->head;
		p->skip = p->out->read_len - (uint32_t)chain_left_read(p->out);
		chain_unpop(p->out);
	}
}

static void serial_start(struct vdev *dev)
{
	serial_of(dev)->size_told = false;
	for (unsigned i = 0; i < PORTS; i++)
		serial_of(dev)->ports[i].skip = 0;
}

static void fill_config(struct serial *serial)
{
	uint16_t cols = 0, rows = 0;

	if (serial->sized)
		console_size(serial->ports[0].con, &cols, &rows);
	le16_store(serial->dev.config + CONFIG_COLS, cols);
	le16_store(serial->dev.config + CONFIG_ROWS, rows);
	le32_store(serial->dev.config + CONFIG_PORTS, PORTS);
	le32_store(serial->dev.config + CONFIG_EMERG_WR, 0);
}

static void port_resized(void *arg)
{
	struct port *p = arg;

	/* The size in the config space is that of port 0 (5.3.6). */
	if (p->id)
		return;
	fill_config(p->serial);
	vdev_config_changed(&p->serial->dev);
}

/* Section 5.3.5.1: the low byte goes out at once, whatever state the device is in. */
static void serial_config_wrote(struct vdev *dev, unsigned offset, unsigned len)
{
	struct serial *serial = serial_of(dev);
	uint8_t byte = dev->config[CONFIG_EMERG_WR];

	if (offset <= CONFIG_EMERG_WR && offset + len > CONFIG_EMERG_WR)
		console_write(serial->ports[0].con, &byte, 1);
	fill_config(serial);
}

static int check_options(const struct serial *serial, struct vz_error *e)
{
	if (!serial->log_path && !serial->stdio && !serial->pty)
		return err_set(e, EINVAL, NULL,
			"one of 'logFilePath', 'stdio' or 'pty' must be set");
	if (serial->log_path && serial->stdio)
		return err_set(e, EINVAL, "stdio",
			"'logFilePath' and 'stdio' cannot be set at the same time");
	if (serial->log_path && serial->pty)
		return err_set(e, EINVAL, "pty",
			"'logFilePath' and 'pty' cannot be set at the same time");
	if (serial->stdio && serial->pty)
		return err_set(e, EINVAL, "pty",
			"'stdio' and 'pty' cannot be set at the same time");
	return 0;
}

static int open_port(struct serial *serial, struct port *p, struct vz_error *e)
{
	struct console_events ev = { p, port_readable, port_writable, port_resized };
	struct loop *loop = serial->dev.loop;
	const char *where = "stdio";

	p->serial = serial;
	p->in = malloc(CHAIN_BYTES(QUEUE_SIZE));
	p->out = malloc(CHAIN_BYTES(QUEUE_SIZE));
	if (!p->in || !p->out)
		return err_set(e, ENOMEM, NULL, "out of memory");
	if (serial->log_path) {
		where = "logFilePath";
		p->con = console_open_log(loop, serial->log_path, false, &ev, e);
	} else if (serial->pty) {
		where = "pty";
		p->con = console_open_pty(loop, &ev, e);
	} else {
		p->con = console_open_fds(loop, STDIN_FILENO, STDOUT_FILENO, &ev, e);
	}
	return p->con ? 0 : err_where(e, "%s", where);
}

static int serial_check(struct vdev *dev, struct loop *loop, struct vz_error *e)
{
	return check_options(serial_of(dev), e);
}

static int serial_open(struct vdev *dev, struct vz_error *e)
{
	struct serial *serial = serial_of(dev);
	uint16_t cols, rows;
	int r = check_options(serial, e);

	if (r)
		return r;
	for (unsigned i = 0; !r && i < PORTS; i++) {
		serial->ports[i].id = i;
		r = open_port(serial, &serial->ports[i], e);
	}
	if (r)
		return r;
	serial->sized = console_size(serial->ports[0].con, &cols, &rows);
	if (serial->sized)
		dev->offered |= VIRTIO_BIT(CONSOLE_F_SIZE);
	fill_config(serial);
	return 0;
}

static void serial_close(struct vdev *dev)
{
	struct serial *serial = serial_of(dev);

	for (unsigned i = 0; i < PORTS; i++) {
		console_close(serial->ports[i].con);
		free(serial->ports[i].in);
		free(serial->ports[i].out);
	}
}

static int serial_state(struct vdev *dev, struct state *s)
{
	struct port *p = &serial_of(dev)->ports[0];

	/* The size is that of the terminal here, not of the one the machine was saved at. */
	if (state_loading(s))
		fill_config(serial_of(dev));
	state_u16(s, "skip_head", &p->skip_head);
	return state_u32(s, "skip", &p->skip);
}

struct console *virtio_console_port(struct vdev *dev, unsigned port)
{
	return port < PORTS ? serial_of(dev)->ports[port].con : NULL;
}

static const struct option serial_options[] = {
	{ "stdio", OPT_FLAG, offsetof(struct serial, stdio), .help = "standard input and output" },
	{ "pty", OPT_FLAG, offsetof(struct serial, pty), .help = "a new pseudo-terminal" },
	{ "logFilePath", OPT_STRING, offsetof(struct serial, log_path),
		.help = "file for the guest's output; what it held is lost" },
	{ 0 },
};

const struct device_class virtio_console = {
	.name = "virtio-serial",
	.summary = "console on a terminal, a pseudo-terminal or a log file",
	.id = 3,
	.pci_class = { 0x07, 0x80, 0x00 },
	.queues = 2,
	.queue_size = QUEUE_SIZE,
	.features = VIRTIO_BIT(CONSOLE_F_EMERG_WRITE),
	.config_size = CONFIG_SIZE,
	.size = sizeof(struct serial),
	.in_order = true,
	.options = serial_options,
	.check = serial_check,
	.open = serial_open,
	.close = serial_close,
	.start = serial_start,
	.kick = serial_kick,
	.quiesce = serial_quiesce,
	.config_wrote = serial_config_wrote,
	.state = serial_state,
};
