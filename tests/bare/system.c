/* SPDX-License-Identifier: MIT */
/*
 * System instructions: who may use them, what they refuse, and what they change. Intel SDM volume
 * 2; volume 3, chapters 2 and 5.
 */
#include "bare.h"

static struct regs run(const void *code)
{
	struct regs r = kernel_regs(code);

	exec(&r);
	return r;
}

/*
 * --- privilege
 */
CODE(hlt_, "hlt");
CODE(cli_, "cli");
CODE(sti_, "sti");
CODE(in_, "in $0xe8, %al");
CODE(out_, "out %eax, %dx");
CODE(outs_, "outsb");
CODE(lgdt_, "lgdt (%rdi)");
CODE(lidt_, "lidt (%rdi)");
CODE(ltr_, "ltr %ax");
CODE(lldt_, "lldt %ax");
CODE(read_cr0_, "mov %cr0, %rax");
CODE(write_cr3_, "mov %rax, %cr3");
CODE(read_cr8_, "mov %cr8, %rax");
CODE(read_dr7_, "mov %dr7, %rax");
CODE(rdmsr_, "rdmsr");
CODE(wrmsr_, "wrmsr");
CODE(invlpg_, "invlpg (%rax)");
CODE(wbinvd_, "wbinvd");
CODE(clts_, "clts");
CODE(lmsw_, "lmsw %ax");
CODE(swapgs_, "swapgs");
CODE(sysretq_, "sysretq");

static void privileged(void)
{
	static const void *const codes[] = { hlt_, cli_, sti_, in_, out_, outs_, lgdt_, lidt_, ltr_,
		lldt_, read_cr0_, write_cr3_, read_cr8_, read_dr7_, rdmsr_, wrmsr_, invlpg_,
		wbinvd_, clts_, lmsw_, swapgs_, sysretq_ };

	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		struct regs r = user_regs(codes[i]);

		exec(&r);
		CHECK_TRAP(&r, GP, 0, user(codes[i]));
	}
}

CODE(io_level, "cli; sti; cli; in $0xe8, %al; pushfq; pop %rbx");
static void io_privilege_level(void)
{
	struct regs r = user_regs(io_level);

	r.rflags |= FL_IOPL;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(io_level_end) + 1);
	CHECK_EQ(r.rbx & (FL_IF | FL_IOPL), FL_IOPL);
}

CODE(io_bitmap, "in $0xe8, %eax; mov %eax, %ebx; in $0xe4, %al");
static struct {
	struct tss tss;
	uint8_t bitmap[8192], last;
} __attribute__((packed)) with_bitmap;

static void io_permission_bitmap(void)
{
	uint64_t saved[2] = { gdt[TSS_SEL / 8], gdt[TSS_SEL / 8 + 1] };
	uint64_t base = (uint64_t)&with_bitmap;
	struct regs r = user_regs(io_bitmap);

	with_bitmap.tss = tss[0];
	with_bitmap.tss.io_map = sizeof(struct tss);
	memset(with_bitmap.bitmap, 0xff, sizeof(with_bitmap.bitmap) + 1);
	with_bitmap.bitmap[0xe8 / 8] = 0xf0; /* 0xe8 .. 0xeb */
	gdt[TSS_SEL / 8] = (sizeof(with_bitmap) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40;
	gdt[TSS_SEL / 8 + 1] = 0;
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL) : "memory");
	exec(&r);
	CHECK_TRAP(&r, GP, 0, user(io_bitmap) + 4);
	CHECK_EQ(r.rbx, device_present() ? DEVICE_MAGIC : r.rbx);
	/* an access of four ports of which one is refused */
	with_bitmap.bitmap[0xe8 / 8] = 0xf8;
	r = user_regs(io_bitmap);
	exec(&r);
	CHECK_TRAP(&r, GP, 0, user(io_bitmap));
	gdt[TSS_SEL / 8] = saved[0] & ~(2ull << 40);
	gdt[TSS_SEL / 8 + 1] = saved[1];
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL) : "memory");
}

CODE(popf_user, "pushq $0x253601; popfq; pushfq; pop %rax");
static void popf_of_user(void)
{
	struct regs r = user_regs(popf_user);

	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(popf_user_end) + 1);
	CHECK_EQ(r.rax, 2 | FL_AC | FL_ID | FL_CF | FL_DF);
}

CODE(smsw_, "smsw %rax; str %ebx; sldt %ecx; sgdt (%rdi)");
static void unprivileged_looks(void)
{
	uint8_t *at = page_alloc();
	struct regs r = user_regs(smsw_);

	r.rdi = user(at);
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(smsw__end) + 1);
	CHECK_EQ(r.rax, read_cr0());
	CHECK_EQ(r.rbx, TSS_SEL);
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(*(uint16_t *)at, 511);
	CHECK_EQ(*(uint64_t *)(at + 2), (uint64_t)gdt);
}

/*
 * --- control registers
 */
CODE(set_cr0, "mov %rax, %cr0");
CODE(set_cr3, "mov %rax, %cr3");
CODE(set_cr4, "mov %rax, %cr4");
CODE(set_cr8, "mov %rax, %cr8");

static void refused(const void *code, uint64_t value)
{
	struct regs r = kernel_regs(code);

	r.rax = value;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, code);
}

static void control_register_faults(void)
{
	refused(set_cr0, read_cr0() & ~1ull);          /* PG without PE */
	refused(set_cr0, read_cr0() & ~0x80000000ull); /* PG off in 64-bit mode */
	refused(set_cr0, read_cr0() | 1ull << 32);
	refused(set_cr0, (read_cr0() & ~0x40000000ull) | 0x20000000); /* NW without CD */
	refused(set_cr3, read_cr3() | 1ull << 60);
	refused(set_cr4, read_cr4() & ~0x20ull); /* PAE */
	refused(set_cr4, read_cr4() | 1ull << 40);
	refused(set_cr8, 16);
	refused(set_cr8, 1ull << 32);
}

static void control_registers_read_back(void)
{
	uint64_t cr0 = read_cr0(), cr4 = read_cr4();

	write_cr0(cr0 | CR0_TS | CR0_AM);
	CHECK_EQ(read_cr0(), cr0 | CR0_TS | CR0_AM);
	__asm__ volatile("clts" : : : "memory");
	CHECK_EQ(read_cr0(), cr0 | CR0_AM);
	write_cr0(cr0);
	__asm__ volatile("lmsw %0" : : "r"((uint16_t)(cr0 | 8)) : "memory");
	CHECK_EQ(read_cr0(), cr0 | CR0_TS);
	__asm__ volatile("lmsw %0" : : "r"((uint16_t)(cr0 & 0xe)) : "memory"); /* PE stays */
	CHECK_EQ(read_cr0(), cr0);
	write_cr2(0xffff800012345678ull);
	CHECK_EQ(read_cr2(), 0xffff800012345678ull);
	write_cr4(cr4 | CR4_DE | CR4_TSD);
	CHECK_EQ(read_cr4(), cr4 | CR4_DE | CR4_TSD);
	write_cr4(cr4);
	write_cr8(9);
	CHECK_EQ(read_cr8(), 9);
	write_cr8(0);
}

CODE(read_dr4, "mov %dr4, %rax");
CODE(set_dr7, "mov %rax, %dr7");
static void debug_registers(void)
{
	uint64_t v;
	struct regs r;

	__asm__ volatile("mov %1, %%dr0; mov %%dr0, %0" : "=r"(v) : "r"(0x123456789abcull));
	CHECK_EQ(v, 0x123456789abcull);
	__asm__ volatile("mov %%dr7, %0" : "=r"(v));
	CHECK_EQ(v, 0x400);
	__asm__ volatile("mov %%dr6, %0" : "=r"(v));
	CHECK_EQ(v & 0xffff0ff0, 0xffff0ff0);
	r = run(read_dr4); /* an alias of dr6 */
	CHECK_DONE(&r, read_dr4);
	write_cr4(read_cr4() | CR4_DE);
	r = run(read_dr4);
	CHECK_TRAP(&r, UD, 0, read_dr4);
	write_cr4(read_cr4() & ~CR4_DE);
	refused(set_dr7, 1ull << 32);
}

/*
 * --- model-specific registers
 */
static void msr_refused(uint32_t msr, uint64_t value)
{
	struct regs r = kernel_regs(wrmsr_);

	r.rcx = msr;
	r.rax = (uint32_t)value;
	r.rdx = value >> 32;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, wrmsr_);
}

static void msr_faults(void)
{
	struct regs r = kernel_regs(rdmsr_);

	r.rcx = 0xdeadbeef;
	r.rax = 1;
	r.rdx = 2;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, rdmsr_);
	CHECK_EQ(r.rax, 1);
	CHECK_EQ(r.rdx, 2);
	msr_refused(0xdeadbeef, 0);
	msr_refused(MSR_LSTAR, 0x800000000000ull);
	msr_refused(MSR_FS_BASE, 0x800000000000ull);
	msr_refused(MSR_KERNEL_GS, 0xffff7fffffffffffull);
	msr_refused(MSR_EFER, rdmsr(MSR_EFER) | 1ull << 63);
	msr_refused(MSR_EFER, rdmsr(MSR_EFER) & ~0x100ull); /* LME while paging */
	msr_refused(0x277, 2);                              /* PAT: no such memory type */
}

static void msr_read_back(void)
{
	static const uint32_t words[] = { MSR_LSTAR, MSR_STAR, MSR_KERNEL_GS, MSR_SYSENTER + 1,
		MSR_SYSENTER + 2, MSR_FS_BASE, MSR_GS_BASE };

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		wrmsr(words[i], 0xffff800000000000ull + i);
		CHECK_EQ(rdmsr(words[i]), 0xffff800000000000ull + i);
		wrmsr(words[i], 0);
	}
	wrmsr(MSR_SFMASK, 0x47700);
	CHECK_EQ(rdmsr(MSR_SFMASK), 0x47700);
	/* LMA cannot be written */
	uint64_t efer = rdmsr(MSR_EFER);

	wrmsr(MSR_EFER, efer & ~0x400ull);
	CHECK_EQ(rdmsr(MSR_EFER), efer);
	CHECK_EQ(efer & 0xd01, 0xd01);
}

/*
 * --- syscall
 */
CODE(syscall_, "syscall");
CODE(syscall_entry, "nop");

static void syscall_setup(void)
{
	wrmsr(MSR_STAR, (uint64_t)KERNEL_CS << 32 | 0x1bull << 48);
	wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
	wrmsr(MSR_SFMASK, FL_IF | FL_DF | FL_AC | FL_CF);
}

static void syscall_from_user(void)
{
	struct regs r = user_regs(syscall_);
	uint64_t rsp = r.rsp;

	syscall_setup();
	r.rflags |= FL_CF | FL_ZF | FL_DF | FL_ID | FL_AC;
	r.rcx = 1;
	r.r11 = 2;
	exec(&r);
	CHECK_DONE(&r, syscall_entry);
	CHECK_EQ(r.rcx, user(syscall__end));
	CHECK_EQ(r.r11, 2 | FL_CF | FL_ZF | FL_DF | FL_ID | FL_AC);
	CHECK_EQ(r.rflags, 2 | FL_ZF | FL_ID);
	CHECK_EQ(r.cs, KERNEL_CS);
	CHECK_EQ(r.ss, KERNEL_SS);
	CHECK_EQ(r.rsp, rsp);
}

static void syscall_disabled(void)
{
	struct regs r = user_regs(syscall_);

	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SCE);
	exec(&r);
	CHECK_TRAP(&r, UD, 0, user(syscall_));
	r = run(sysretq_);
	CHECK_TRAP(&r, UD, 0, sysretq_);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
}

static void sysret_to_user(void)
{
	static const uint64_t flags = 2 | FL_CF | FL_ID | FL_AC | FL_IOPL;
	struct regs r = kernel_regs(sysretq_);
	uint64_t rsp = r.rsp;

	syscall_setup();
	r.rcx = user(syscall_entry);
	r.r11 = flags | FL_RF;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(syscall_entry_end) + 1);
	CHECK_EQ(r.cs, USER_CS);
	CHECK_EQ(r.ss, USER_SS);
	CHECK_EQ(r.rflags, flags);
	CHECK_EQ(r.rsp, rsp);
}

/* There and back, many times: what a system call costs must not change what it does. */
CODE(syscall_loop, "1: mov %rbx, %rax; syscall; add %rax, %r12; dec %rbx; jnz 1b");
CODE(syscall_serve, "lea 1(%rax), %rax; sysretq");
static void syscall_round_trips(void)
{
	struct regs r = user_regs(syscall_loop);

	syscall_setup();
	wrmsr(MSR_LSTAR, (uint64_t)syscall_serve);
	r.rbx = 10000;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(syscall_loop_end) + 1);
	CHECK_EQ(r.r12, 10000ull * 10001 / 2 + 10000);
}

static bool is_intel(void)
{
	uint32_t out[4];

	cpuid(0, 0, out);
	return out[1] == 0x756e6547;
}

CODE(sysenter_, "sysenter");
CODE(sysexitq_, "rex.w sysexit");
static void sysenter_from_user(void)
{
	uint64_t stack = (uint64_t)page_alloc() + PAGE;
	struct regs r = user_regs(sysenter_);

	wrmsr(MSR_SYSENTER, 0);
	exec(&r);
	CHECK_TRAP(&r, GP, 0, user(sysenter_));
	wrmsr(MSR_SYSENTER, KERNEL_CS);
	wrmsr(MSR_SYSENTER + 1, stack);
	wrmsr(MSR_SYSENTER + 2, (uint64_t)syscall_entry);
	r = user_regs(sysenter_);
	r.rflags |= FL_ZF;
	exec(&r);
	CHECK_DONE(&r, syscall_entry);
	CHECK_EQ(r.rsp, stack);
	CHECK_EQ(r.cs, KERNEL_CS);
	CHECK_EQ(r.ss, KERNEL_SS);
	CHECK_EQ(r.rflags, 2 | FL_ZF);
	r = kernel_regs(sysexitq_);
	r.rdx = user(syscall_entry);
	r.rcx = stack - 512 + USER_BASE;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(syscall_entry_end) + 1);
	CHECK_EQ(r.rsp, stack - 512 + USER_BASE);
	CHECK_EQ(r.cs, USER_CS);
	CHECK_EQ(r.ss, USER_SS2);
}

/*
 * --- segment bases
 */
CODE(swap_and_load, "swapgs; mov %gs:8, %rax; swapgs; mov %gs:8, %rbx; mov %fs:(%rdi), %rcx");
static void swap_gs(void)
{
	static const uint64_t one[2] = { 0, 111 }, two[2] = { 0, 222 };
	struct regs r = kernel_regs(swap_and_load);

	wrmsr(MSR_GS_BASE, (uint64_t)one);
	wrmsr(MSR_KERNEL_GS, (uint64_t)two);
	wrmsr(MSR_FS_BASE, (uint64_t)two - 0x1000);
	r.rdi = 0x1008;
	exec(&r);
	CHECK_DONE(&r, swap_and_load);
	CHECK_EQ(r.rax, 222);
	CHECK_EQ(r.rbx, 111);
	CHECK_EQ(r.rcx, 222);
	CHECK_EQ(rdmsr(MSR_GS_BASE), (uint64_t)one);
	__asm__ volatile("swapgs");
	CHECK_EQ(rdmsr(MSR_GS_BASE), (uint64_t)two);
	CHECK_EQ(rdmsr(MSR_KERNEL_GS), (uint64_t)one);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

/* A base is added after the address is cut to 32 bits. */
CODE(base_and_address_size, "mov %fs:8(%edi), %rax; mov %fs:8(,%rcx,8), %rbx");
static void segment_base_addresses(void)
{
	uint64_t *page = page_alloc();
	struct regs r = kernel_regs(base_and_address_size);

	page[1] = 11;
	page[3] = 33;
	wrmsr(MSR_FS_BASE, (uint64_t)page + 16);
	r.rdi = 0xfffffffffffffff0ull; /* 32 bits: 0xfffffff0 + 8 */
	r.rcx = 1;
	exec(&r);
	CHECK_EQ(r.vector, PF);
	CHECK_EQ(r.cr2, (uint64_t)page + 16 + 0xfffffff8);
	r = kernel_regs(base_and_address_size);
	r.rdi = 0xabcdef0100000000ull;
	r.rcx = (uint64_t)-3;
	exec(&r);
	CHECK_DONE(&r, base_and_address_size);
	CHECK_EQ(r.rax, 33);
	CHECK_EQ(r.rbx, page[0]);
	wrmsr(MSR_FS_BASE, 0);
}

CODE(read_base, "rdfsbase %rax; rdgsbase %ebx");
CODE(write_base, "wrfsbase %rax; wrgsbase %ebx; rdfsbase %rcx; rdgsbase %rdx");
static void base_instructions(void)
{
	struct regs r = run(read_base);

	CHECK_TRAP(&r, UD, 0, read_base);
	write_cr4(read_cr4() | CR4_FSGSBASE);
	r = user_regs(write_base);
	r.rax = 0x123456789000;
	r.rbx = 0xffffffff87654321;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(write_base_end) + 1);
	CHECK_EQ(r.rcx, 0x123456789000);
	CHECK_EQ(r.rdx, 0x87654321);
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0x123456789000);
	CHECK_EQ(rdmsr(MSR_GS_BASE), 0x87654321);
	r = user_regs(write_base);
	r.rax = 0x800000000000;
	exec(&r);
	CHECK_TRAP(&r, GP, 0, user(write_base));
	write_cr4(read_cr4() & ~CR4_FSGSBASE);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

CODE(load_fs, "mov %eax, %fs; mov %fs:0, %rbx; mov %fs, %ecx; push %fs; pop %rdx; pop %fs");
static void selector_loads_base(void)
{
	static const uint64_t word = 77;
	uint64_t base = (uint64_t)&word;
	struct regs r = kernel_regs(load_fs);

	gdt[SPARE_SEL / 8] = 0x00cf92000000ffff | (base & 0xffffff) << 16 | (base >> 24) << 56;
	r.rax = SPARE_SEL;
	exec(&r);
	CHECK_EQ(r.rbx, 77);
	CHECK_EQ(r.rcx, SPARE_SEL);
	CHECK_EQ(r.rdx, SPARE_SEL);
	CHECK_EQ(gdt[SPARE_SEL / 8] >> 40 & 0xff, 0x93); /* accessed */
	__asm__ volatile("mov %0, %%fs" : : "r"(0));
	wrmsr(MSR_FS_BASE, 0);
}

/*
 * --- descriptors
 */
CODE(look_at, "lar %eax, %ebx; setz %cl; lsl %eax, %edx; setz %ch; verr %ax; setz %sil;"
	      "verw %ax; setz %dil");
static struct regs look_up(uint64_t selector, bool as_user)
{
	struct regs r = as_user ? user_regs(look_at) : kernel_regs(look_at);

	r.rax = selector;
	r.rbx = r.rdx = 0x5555;
	exec(&r);
	CHECK_EQ(r.vector, BP);
	return r;
}

static void descriptor_looks(void)
{
	struct regs r = look_up(KERNEL_CS, false);

	CHECK_EQ(r.rbx & 0xf0ff00, 0xa09b00);
	CHECK_EQ(r.rcx, 0x0101);
	CHECK_EQ(r.rdx, 0xffffffff);
	CHECK_EQ(r.rsi, 1);
	CHECK_EQ(r.rdi, 0);
	r = look_up(USER_SS, true);
	CHECK_EQ(r.rbx & 0xf0fe00, 0xc0f200);
	CHECK_EQ(r.rcx, 0x0101);
	CHECK_EQ(r.rsi, 1);
	CHECK_EQ(r.rdi, 1);
	r = look_up(KERNEL_SS, true);
	CHECK_EQ(r.rcx, 0);
	CHECK_EQ(r.rbx, 0x5555);
	CHECK_EQ(r.rdx, 0x5555);
	CHECK_EQ(r.rsi, 0);
	CHECK_EQ(r.rdi, 0);
	r = look_up(TSS_SEL, false);
	CHECK_EQ(r.rbx & 0xff00, 0x8b00);
	CHECK_EQ(r.rcx, 0x0101);
	CHECK_EQ(r.rdx, sizeof(struct tss) - 1);
	CHECK_EQ(r.rsi, 0);
	r = look_up(0, false);
	CHECK_EQ(r.rcx, 0);
	r = look_up(0x4000, false);
	CHECK_EQ(r.rcx, 0);
	gdt[SPARE_SEL / 8] = 0x0000920012345678; /* 20-bit limit in bytes */
	r = look_up(SPARE_SEL, false);
	CHECK_EQ(r.rdx, 0x5678);
	gdt[SPARE_SEL / 8] = 0x00af990000001fff; /* code that cannot be read */
	r = look_up(SPARE_SEL, false);
	CHECK_EQ(r.rdx, 0xf1ffffff & 0xffffffff);
	CHECK_EQ(r.rsi, 0);
}

static void local_table(void)
{
	uint64_t *ldt = page_alloc();
	struct regs r = kernel_regs(load_fs);

	ldt[1] = 0x00cf93000000ffff | 0x30ull << 16;
	gdt[SPARE_SEL / 8] =
		15 | ((uint64_t)ldt & 0xffffff) << 16 | 0x82ull << 40 | ((uint64_t)ldt >> 24) << 56;
	gdt[SPARE_SEL / 8 + 1] = 0;
	ldt[6] = 99;
	__asm__ volatile("lldt %w0" : : "r"(SPARE_SEL) : "memory");
	wrmsr(MSR_FS_BASE, 0);
	r.rax = 8 | 4;
	exec(&r); /* its base is 0x30 */
	CHECK_EQ(r.rcx, 12);
	r = look_up(16 | 4, false); /* beyond the limit */
	CHECK_EQ(r.rcx, 0);
	__asm__ volatile("lldt %w0" : : "r"(0) : "memory");
	__asm__ volatile("mov %0, %%fs" : : "r"(0));
	wrmsr(MSR_FS_BASE, 0);
	r = kernel_regs(ltr_);
	r.rax = TSS_SEL; /* busy */
	exec(&r);
	CHECK_TRAP(&r, GP, TSS_SEL, ltr_);
	r = kernel_regs(ltr_);
	r.rax = KERNEL_SS;
	exec(&r);
	CHECK_TRAP(&r, GP, KERNEL_SS, ltr_);
	r = run(ltr_);
	CHECK_TRAP(&r, GP, 0, ltr_);
}

/*
 * --- far transfers
 */
CODE(far_return, "lretq");
CODE(far_return_imm, "lretq $16");
CODE(far_jump, "ljmp *(%rdi)");
CODE(far_call, "rex.w lcall *(%rdi)");
static void far_transfers(void)
{
	uint64_t *words = page_alloc();
	struct regs r = kernel_regs(far_return);

	words[0] = (uint64_t)syscall_entry;
	words[1] = KERNEL_CS;
	r.rsp = (uint64_t)words;
	exec(&r);
	CHECK_DONE(&r, syscall_entry);
	CHECK_EQ(r.rsp, (uint64_t)words + 16);
	words[0] = user(syscall_entry);
	words[1] = USER_CS;
	words[4] = user(words) + 1024;
	words[5] = USER_SS;
	r = kernel_regs(far_return_imm);
	r.rsp = (uint64_t)words;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(syscall_entry_end) + 1);
	CHECK_EQ(r.rsp, user(words) + 1024 + 16);
	CHECK_EQ(r.cs, USER_CS);
	CHECK_EQ(r.ss, USER_SS);
	words[0] = (uint64_t)syscall_entry | (uint64_t)KERNEL_CS << 32;
	r = kernel_regs(far_jump); /* m16:32 */
	r.rdi = (uint64_t)words;
	exec(&r);
	CHECK_DONE(&r, syscall_entry);
	words[0] = (uint64_t)syscall_entry | (uint64_t)USER_CS << 32;
	r = kernel_regs(far_jump);
	r.rdi = (uint64_t)words;
	exec(&r);
	CHECK_TRAP(&r, GP, USER_CS & ~3, far_jump);
	if (!is_intel()) /* m16:64 */
		return;
	words[0] = (uint64_t)syscall_entry;
	words[1] = KERNEL_CS;
	r = kernel_regs(far_call);
	r.rdi = (uint64_t)words;
	r.rsp = (uint64_t)words + 2048;
	exec(&r);
	CHECK_DONE(&r, syscall_entry);
	CHECK_EQ(r.rsp, (uint64_t)words + 2048 - 16);
	CHECK_EQ(words[254], (uint64_t)far_call_end);
	CHECK_EQ(words[255], KERNEL_CS);
}

/*
 * --- time stamps
 */
CODE(rdtsc_, "rdtsc");
CODE(rdtscp_, "rdtscp");
CODE(rdpid_, "rdpid %rax");
static void time_stamp(void)
{
	uint64_t first = rdtsc(), second = rdtsc();
	struct regs r;

	CHECK(second > first);
	write_cr4(read_cr4() | CR4_TSD);
	r = user_regs(rdtsc_);
	exec(&r);
	CHECK_TRAP(&r, GP, 0, user(rdtsc_));
	r = run(rdtsc_);
	CHECK_DONE(&r, rdtsc_);
	write_cr4(read_cr4() & ~CR4_TSD);
	r = user_regs(rdtsc_);
	r.rax = r.rdx = ~0ull;
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(rdtsc__end) + 1);
	CHECK_EQ(r.rax >> 32, 0);
	CHECK_EQ(r.rdx >> 32, 0);
	CHECK((r.rdx << 32 | r.rax) > second);
}

static void time_stamp_and_processor(void)
{
	struct regs r;

	wrmsr(MSR_TSC_AUX, 0x1234567);
	r = run(rdtscp_);
	CHECK_DONE(&r, rdtscp_);
	CHECK_EQ(r.rcx, 0x1234567);
}

static void processor_id(void)
{
	struct regs r;

	wrmsr(MSR_TSC_AUX, 0x7654321);
	r = user_regs(rdpid_);
	exec(&r);
	CHECK_TRAP(&r, BP, 0, user(rdpid__end) + 1);
	CHECK_EQ(r.rax, 0x7654321);
}

int main(void)
{
	RUN(privileged);
	RUN(io_privilege_level);
	RUN(io_permission_bitmap);
	RUN(popf_of_user);
	RUN(unprivileged_looks);
	RUN(control_register_faults);
	RUN(control_registers_read_back);
	RUN(debug_registers);
	RUN(msr_faults);
	RUN(msr_read_back);
	RUN(syscall_from_user);
	RUN(syscall_disabled);
	RUN(sysret_to_user);
	RUN(syscall_round_trips);
	RUN_IF(is_intel(), sysenter_from_user);
	RUN(swap_gs);
	RUN(segment_base_addresses);
	RUN_IF(cpu_has(7, 0, 1, 0), base_instructions);
	RUN(selector_loads_base);
	RUN(descriptor_looks);
	RUN(local_table);
	RUN(far_transfers);
	RUN(time_stamp);
	RUN_IF(cpu_has(0x80000001, 0, 3, 27), time_stamp_and_processor);
	RUN_IF(cpu_has(7, 0, 2, 22), processor_id);
	return tap_done();
}
