/* SPDX-License-Identifier: MIT */
/*
 * Code that changes: Intel SDM volume 3, section 12.6. A store to code must be seen by the next
 * jump at the latest, through whatever address it was made, and by the instruction right behind it
 * where the addresses are the same; and data beside code must stay data.
 */
#include "bare.h"

static uint32_t call(const void *code)
{
	return ((uint32_t(*)(void))(uint64_t)code)();
}

/* mov $n, %eax; ret */
static void make_function(void *at, uint32_t n)
{
	uint8_t bytes[6] = { 0xb8, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16),
		(uint8_t)(n >> 24), 0xc3 };

	memcpy(at, bytes, 6);
}

static void function_changes(void)
{
	uint8_t *p = page_alloc();
	uint64_t sum = 0;

	for (uint32_t i = 0; i < 1000; i++) {
		make_function(p, i);
		sum += call(p);
	}
	CHECK_EQ(sum, 999 * 1000 / 2);
}

/* Only the immediate changes, by stores of every width. */
static void immediate_changes(void)
{
	uint8_t *p = page_alloc() + 13;

	make_function(p, 0);
	CHECK_EQ(call(p), 0);
	p[1] = 1;
	CHECK_EQ(call(p), 1);
	*(volatile uint16_t *)(p + 2) = 0x0203;
	CHECK_EQ(call(p), 0x020301);
	*(volatile uint32_t *)(p + 1) = 0x11223344;
	CHECK_EQ(call(p), 0x11223344);
	*(volatile uint64_t *)(p - 2) = 0xc300887766b80000;
	CHECK_EQ(call(p), 0x887766);
	__asm__ volatile("lock addl $5, %0" : "+m"(*(volatile uint32_t *)(p + 1)));
	CHECK_EQ(call(p), 0x88776b);
	__asm__ volatile("movb $0x99, %%ah; movb %%ah, %0" : "=m"(p[1]) : : "rax");
	CHECK_EQ(call(p), 0x887799);
	__asm__ volatile("lock btsl $11, %0" : "+m"(*(volatile uint32_t *)(p + 1)));
	CHECK_EQ(call(p), 0x887f99);
}

static void changed_by_string_store(void)
{
	uint8_t *p = page_alloc(), *q = page_alloc();

	for (uint32_t i = 1; i < 50; i++) {
		const void *from = q + 100;
		void *to = p + 100;
		uint64_t n = 6;

		make_function(q + 100, i);
		__asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(n) : : "memory");
		CHECK_EQ(call(p + 100), i);
		to = p + 101;
		__asm__ volatile("stosl" : "+D"(to) : "a"(i + 1000) : "memory");
		CHECK_EQ(call(p + 100), i + 1000);
	}
}

static void changed_by_push(void)
{
	uint8_t *p = page_alloc();

	for (uint32_t i = 1; i < 50; i++) {
		make_function(p + 8, 0);
		CHECK_EQ(call(p + 8), 0);
		/* b8 i 0 0 0 c3 .. as one quadword on a stack that is code */
		__asm__ volatile("mov %%rsp, %%rcx; mov %0, %%rsp; push %1; mov %%rcx, %%rsp"
				 :
				 : "r"(p + 16), "r"(0xb8 | (uint64_t)i << 8 | 0xc3ull << 40)
				 : "rcx", "memory");
		CHECK_EQ(call(p + 8) & 0xff, i);
	}
}

static void changed_by_vector_store(void)
{
	uint8_t *p = page_alloc(), *q = page_alloc();

	for (uint32_t i = 1; i < 50; i++) {
		make_function(q, i);
		__asm__ volatile("movups (%0), %%xmm0; movups %%xmm0, (%1)"
				 :
				 : "r"(q), "r"(p)
				 : "memory");
		CHECK_EQ(call(p), i);
	}
}

static void changed_through_alias(void)
{
	uint8_t *p = page_alloc();
	uint64_t alias = va_alloc(), second = va_alloc();

	map(alias, p, PTE_KRW);
	map(second, p, PTE_KRW);
	for (uint32_t i = 1; i < 200; i++) {
		make_function((void *)alias, i);
		CHECK_EQ(call(p), i);
		CHECK_EQ(call((void *)second), i);
		*(volatile uint32_t *)(second + 1) = i + 1000;
		CHECK_EQ(call(p), i + 1000);
		CHECK_EQ(call((void *)alias), i + 1000);
	}
}

/* Text is read-only; its one writable alias exists only for a moment. */
static void poked_text(void)
{
	uint8_t *p = page_alloc();
	uint64_t text = va_alloc(), poke = va_alloc();

	make_function(p, 0);
	map(text, p, PTE_P);
	for (uint32_t i = 1; i < 100; i++) {
		CHECK_EQ(call((void *)text), i - 1);
		map(poke, p, PTE_KRW);
		*(volatile uint32_t *)(poke + 1) = i;
		*pte(poke, 1) = 0;
		invlpg(poke);
	}
	CHECK_EQ(call((void *)text), 99);
}

/*
 * --- code that changes what it is about to run
 */
CODE(patch_next, "movb $0x42, 1f+1(%rip); jmp 1f\n1: mov $0x11, %al");
CODE(patch_far, "movb $7, 2f+1(%rip)\n nop\n nop\n add $1, %rbx\n nop\n2: mov $1, %cl");
CODE(patch_direct, "movb %dl, 1f+1(%rip)\n1: mov $0, %al");

static struct regs copy_and_run(const uint8_t *code, const uint8_t *end, void *to, uint64_t rdx)
{
	struct regs r = kernel_regs(to);

	memcpy(to, code, (size_t)(end - code) + 1);
	r.rdx = rdx;
	exec(&r);
	CHECK_EQ(r.vector, BP);
	return r;
}

static void next_instruction(void)
{
	uint8_t *p = page_alloc();
	struct regs r;

	r = copy_and_run(patch_next, patch_next_end, p, 0);
	CHECK_EQ(r.rax, 0x42);
	r = copy_and_run(patch_far, patch_far_end, p + 64, 0);
	CHECK_EQ(r.rcx, 7);
	CHECK_EQ(r.rbx, 1);
	for (unsigned i = 0; i < 20; i++) {
		r = copy_and_run(patch_direct, patch_direct_end, p + 128, i * 3);
		CHECK_EQ(r.rax, i * 3);
	}
}

/* A loop that rewrites its own body each time round. */
CODE(patch_loop, "1: incb 2f+3(%rip)\n2: add $0, %rax; dec %rcx; jnz 1b");
static void own_loop(void)
{
	uint8_t *p = page_alloc();
	struct regs r = kernel_regs(p);

	memcpy(p, patch_loop, (size_t)(patch_loop_end - patch_loop) + 1);
	r.rcx = 100;
	exec(&r);
	CHECK_EQ(r.vector, BP);
	CHECK_EQ(r.rax, 100 * 101 / 2);
}

/* rep movs that overwrites itself with int3s, and what follows. */
CODE(patch_rep, "rep stosb; nop; nop; nop; mov $1, %bl");
static void own_repetition(void)
{
	uint8_t *p = page_alloc();
	struct regs r = kernel_regs(p);

	memcpy(p, patch_rep, (size_t)(patch_rep_end - patch_rep) + 1);
	r.rdi = (uint64_t)p + 2;
	r.rcx = 3;
	r.rax = 0xcc;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, p + 3);
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(r.rbx, 0);
}

/* A call pushes its return address, which begins with 0xcc, over the code that it calls. */
static void overwritten_by_call(void)
{
	uint8_t *p = page_alloc(), *q = page_alloc();

	memset(p, 0x90, 64);
	memcpy(q + 0xca, "\xff\xd0", 2); /* call *%rax */
	for (unsigned i = 0; i < 20; i++) {
		struct regs r = kernel_regs(q + 0xca);

		memset(p + 8, 0x90, 8);
		r.rax = (uint64_t)p + 8;
		r.rsp = (uint64_t)p + 16;
		exec(&r);
		CHECK_TRAP(&r, BP, 0, p + 9);
		CHECK_EQ(*(uint64_t *)(p + 8), (uint64_t)q + 0xcc);
	}
}

/*
 * --- breakpoints
 */
static volatile uint64_t hits, hit_at;
static bool on_breakpoint(struct regs *frame)
{
	hits++;
	hit_at = frame->rip;
	*(volatile uint8_t *)(frame->rip - 1) = 0xb8; /* what was there */
	frame->rip--;
	return true;
}

static void breakpoint_and_back(void)
{
	uint8_t *p = page_alloc();

	make_function(p, 5);
	set_handler(BP, on_breakpoint);
	hits = 0;
	for (unsigned i = 1; i <= 50; i++) {
		*(volatile uint8_t *)p = 0xcc;
		CHECK_EQ(call(p), 5);
		CHECK_EQ(call(p), 5);
		CHECK_EQ(hits, i);
		CHECK_EQ(hit_at, (uint64_t)p + 1);
	}
	set_handler(BP, NULL);
}

/* A jump label: five bytes of nop become a jump, and a nop again. */
static void jump_label(void)
{
	uint8_t *p = page_alloc();

	/* xor eax,eax; nop5; inc eax; ret ... at 16: mov $9, eax; ret */
	memcpy(p, "\x31\xc0\x0f\x1f\x44\0\0\xff\xc0\xc3", 10);
	make_function(p + 16, 9);
	for (unsigned i = 0; i < 100; i++) {
		CHECK_EQ(call(p), 1);
		memcpy(p + 2, "\xe9\x09\0\0\0", 5);
		CHECK_EQ(call(p), 9);
		memcpy(p + 2, "\x0f\x1f\x44\0\0", 5);
	}
}

/* The target of a linked jump changes, and the jump itself does not. */
static void callee_changes(void)
{
	uint8_t *p = page_alloc(), *q = page_alloc();

	/* near: call +; add $1, eax; ret -- the callee at 64 on the same page */
	memcpy(p, "\xe8\x3b\0\0\0\x83\xc0\x01\xc3", 9);
	/* far: the callee on another page, through rel32 */
	int32_t rel = (int32_t)(q - (p + 128 + 5));

	p[128] = 0xe8;
	memcpy(p + 129, &rel, 4);
	memcpy(p + 133, "\x83\xc0\x01\xc3", 4);
	for (uint32_t i = 0; i < 100; i++) {
		make_function(p + 64, i);
		make_function(q, i * 2);
		CHECK_EQ(call(p), i + 1);
		CHECK_EQ(call(p + 128), i * 2 + 1);
	}
}

/*
 * --- pages
 */
static void page_reused(void)
{
	uint8_t *one = page_alloc(), *two = page_alloc();
	uint64_t va = va_alloc();

	for (uint32_t i = 0; i < 100; i++) {
		uint8_t *page = i & 1 ? one : two;

		memset(page, 0, PAGE); /* freed, cleared, and code again */
		make_function(page + (i * 16 & 0xff0), i);
		map(va, page, PTE_P);
		CHECK_EQ(call((void *)(va + (i * 16 & 0xff0))), i);
		*pte(va, 1) = 0;
		invlpg(va);
	}
}

static void page_becomes_data(void)
{
	uint64_t *page = page_alloc(), sum = 0;

	make_function(page, 1);
	CHECK_EQ(call(page), 1);
	for (unsigned n = 0; n < 50; n++)
		for (unsigned i = 0; i < 512; i++)
			page[i] = i + n;
	for (unsigned i = 0; i < 512; i++)
		sum += page[i];
	CHECK_EQ(sum, 511 * 512 / 2 + 49 * 512);
	make_function(page, 2);
	CHECK_EQ(call(page), 2);
}

/* Counters, a stack and code on one page. */
CODE(beside, "1: incq 2048(%rsi); push %rax; pop %rbx; call 2f; dec %rcx; jnz 1b; int3\n"
	     "2: addq $3, 2056(%rsi); ret");
static void data_beside_code(void)
{
	uint8_t *p = page_alloc();
	struct regs r = kernel_regs(p);

	memcpy(p, beside, (size_t)(beside_end - beside) + 1);
	r.rsi = (uint64_t)p;
	r.rsp = (uint64_t)p + 4096;
	r.rcx = 20000;
	exec(&r);
	CHECK_EQ(r.vector, BP);
	CHECK_EQ(*(uint64_t *)(p + 2048), 20000);
	CHECK_EQ(*(uint64_t *)(p + 2056), 60000);
}

/* An instruction across two pages of which the second one changes, or is another. */
static void crossing_instruction(void)
{
	uint8_t *one = page_alloc(), *two = page_alloc(), *three = page_alloc();
	uint64_t va = va_alloc();
	void *code = (void *)(va + PAGE - 3);

	map(va, one, PTE_KRW);
	map(va + PAGE, two, PTE_KRW);
	for (uint32_t i = 1; i < 100; i++) {
		make_function(code, i << 16);
		CHECK_EQ(call(code), i << 16);
		two[1] = 0x77; /* the last byte of the immediate */
		CHECK_EQ(call(code), i << 16 | 0x77000000);
		memcpy(three, "\x01\x02\xc3", 3);
		map(va + PAGE, three, PTE_KRW);
		CHECK_EQ(call(code), 0x02010000);
		map(va + PAGE, two, PTE_KRW);
		CHECK_EQ(call(code), i << 16 | 0x77000000);
		one[PAGE - 2] = 5;
		CHECK_EQ(call(code), i << 16 | 0x77000005);
	}
}

/* A store that crosses from data into code. */
static void crossing_store(void)
{
	uint8_t *one = page_alloc(), *two = page_alloc();
	uint64_t va = va_alloc();

	map(va, one, PTE_KRW);
	map(va + PAGE, two, PTE_KRW);
	for (uint32_t i = 1; i < 50; i++) {
		make_function((void *)(va + PAGE), 0);
		CHECK_EQ(call((void *)(va + PAGE)), 0);
		*(volatile uint64_t *)(va + PAGE - 6) = 0xb8ull << 48 | (uint64_t)i << 56;
		CHECK_EQ(call((void *)(va + PAGE)), i);
	}
}

/* Large blocks of straight code, more than any buffer for it holds. */
static void much_code(void)
{
	uint8_t *big = large_alloc();
	uint64_t sum = 0, want = 0;

	for (unsigned round = 0; round < 3; round++)
		for (uint32_t i = 0; i < LARGE / 64; i++) {
			make_function(big + i * 64, i + round);
			sum += call(big + i * 64);
			want += i + round;
		}
	CHECK_EQ(sum, want);
}

static void written_by_device(void)
{
	uint8_t *p = page_alloc();

	make_function(p + 3, 0);
	for (uint32_t i = 1; i < 50; i++) {
		device_command(RAM_WRITE, 0, (uint32_t)(uint64_t)p + 4, i);
		device_sync();
		CHECK_EQ(call(p + 3), i);
	}
}

/* The user's code, which the kernel changes through its own mapping. */
static void user_code(void)
{
	uint8_t *p = page_alloc();

	for (unsigned i = 1; i < 50; i++) {
		struct regs r = user_regs(p);

		memcpy(p, "\xb8\0\0\0\0\xcc", 6);
		p[1] = (uint8_t)i;
		exec(&r);
		CHECK_TRAP(&r, BP, 0, user(p) + 6);
		CHECK_EQ(r.rax, i);
	}
}

int main(void)
{
	RUN(function_changes);
	RUN(immediate_changes);
	RUN(changed_by_string_store);
	RUN(changed_by_push);
	RUN(changed_by_vector_store);
	RUN(changed_through_alias);
	RUN(poked_text);
	RUN(next_instruction);
	RUN(own_loop);
	RUN(own_repetition);
	RUN(overwritten_by_call);
	RUN(breakpoint_and_back);
	RUN(jump_label);
	RUN(callee_changes);
	RUN(page_reused);
	RUN(page_becomes_data);
	RUN(data_beside_code);
	RUN(crossing_instruction);
	RUN(crossing_store);
	RUN(much_code);
	RUN_IF(device_present(), written_by_device);
	RUN(user_code);
	return tap_done();
}
