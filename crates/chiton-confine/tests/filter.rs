//! The compiled program, run by a small interpreter of the kernel's packet filter: what it answers is what the profile
//! says, for every call of the table and for arguments at random.

use chiton_confine::{Arch, Program, Seccomp};
use proptest::prelude::*;
use serde_json::json;

const X86_64: u32 = 0xc000_003e;
const AARCH64: u32 = 0xc000_00b7;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// Runs a program on a call, as `kernel/seccomp.c` does.
fn answer(program: &Program, arch: u32, number: u32, args: &[u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    data.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));
    let text = json!(program).as_str().unwrap().to_owned();
    let instructions: Vec<u64> = text
        .as_bytes()
        .chunks(16)
        .map(|digits| u64::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect();
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let word = instructions[at].to_be_bytes();
        let code = u16::from_be_bytes([word[0], word[1]]);
        let k = u32::from_be_bytes([word[4], word[5], word[6], word[7]]);
        let branch = |taken: bool| usize::from(if taken { word[2] } else { word[3] });
        at += 1;
        match code {
            0x20 => {
                let offset = k as usize;
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x} is not expected"),
        }
    }
}

fn program(arch: Arch) -> Program {
    Seccomp::standard().compile(arch).unwrap()
}

#[test]
fn another_abi_ends_the_process_or_finds_nothing() {
    let compiled = program(Arch::X86_64);
    let read = Arch::X86_64.syscall("read").unwrap();
    assert_eq!(answer(&compiled, X86_64, read, &[0; 6]), ALLOW);
    assert_eq!(answer(&compiled, I386, read, &[0; 6]), KILL);
    assert_eq!(answer(&compiled, X86_64, read | 0x4000_0000, &[0; 6]), ENOSYS, "x32");
    assert_eq!(answer(&compiled, X86_64, 999, &[0; 6]), ENOSYS, "newer than the table");
    assert_eq!(answer(&compiled, X86_64, u32::MAX, &[0; 6]), ENOSYS);
}

#[test]
fn arguments_decide_where_a_call_is_limited() {
    for (arch, audit) in [(Arch::X86_64, X86_64), (Arch::Aarch64, AARCH64)] {
        let compiled = program(arch);
        let ask = |name: &str, args: [u64; 6]| answer(&compiled, audit, arch.syscall(name).unwrap(), &args);
        let two = |first: u64, second: u64, third: u64| [first, second, third, 0, 0, 0];
        for bit in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(ask("clone", two(bit | 0x11, 0, 0)), EPERM, "clone {bit:#x}");
            assert_eq!(ask("unshare", two(bit, 0, 0)), EPERM, "unshare {bit:#x}");
        }
        assert_eq!(ask("unshare", two(0x80, 0, 0)), EPERM, "a time namespace");
        assert_eq!(ask("clone", two(0x003d_0f00, 0, 0)), ALLOW, "a thread");
        assert_eq!(ask("clone3", [0; 6]), ENOSYS);
        for request in [0x5412, 0x541c, 0x5423, 0xffff_ffff_0000_5412] {
            assert_eq!(ask("ioctl", two(0, request, 0)), EPERM, "ioctl {request:#x}");
        }
        assert_eq!(ask("ioctl", two(0, 0x5401, 0)), ALLOW);
        assert_eq!(ask("mknodat", [0xffff_ff9c, 0, 0o20_600, 0, 0, 0]), EPERM, "a character device");
        assert_eq!(ask("mknodat", [0xffff_ff9c, 0, 0o10_600, 0, 0, 0]), ALLOW, "a pipe");
        let cloexec = 0x8_0000;
        for (family, kind, protocol) in [(1, 5, 0), (2, 1, 0), (2, 2 | cloexec, 17), (10, 1 | 0x800, 6), (16, 3, 0)] {
            assert_eq!(ask("socket", two(family, kind, protocol)), ALLOW, "socket {family} {kind} {protocol}");
        }
        // Packet, vsock, crypto; raw; SCTP; audit; the packet socket's old spelling.
        for (family, kind, protocol) in
            [(17, 3, 0), (40, 1, 0), (38, 5, 0), (2, 3, 1), (2, 1, 132), (16, 3, 9), (2, 10, 0), (2, 5, 132)]
        {
            assert_eq!(ask("socket", two(family, kind, protocol)), EPERM, "socket {family} {kind} {protocol}");
        }
        assert_eq!(ask("personality", two(0x40000, 0, 0)), EPERM);
        assert_eq!(ask("personality", two(0xffff_ffff, 0, 0)), ALLOW);
    }
}

fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..64,
        (0_u32..64).prop_map(|bit| 1_u64.checked_shl(bit).unwrap_or(0)),
        0x5400_u64..0x5430,
        any::<u64>()
    ]
}

proptest! {
    /// Compiler and model are two readings of one profile.
    #[test]
    fn the_filter_answers_as_the_profile_says(
        index in 0_usize..2000, args in prop::array::uniform6(argument()), aarch64 in any::<bool>(),
    ) {
        let (arch, audit) = if aarch64 { (Arch::Aarch64, AARCH64) } else { (Arch::X86_64, X86_64) };
        let standard = Seccomp::standard();
        let names: Vec<&String> = standard.allow.iter().chain(standard.limited.keys()).chain(&standard.absent).collect();
        let name = names[index % names.len()];
        if let Some(number) = arch.syscall(name) {
            let compiled = standard.compile(arch).unwrap();
            let expected = if standard.allows(name, &args) {
                ALLOW
            } else if standard.absent.contains(name) {
                ENOSYS
            } else {
                EPERM
            };
            prop_assert_eq!(answer(&compiled, audit, number, &args), expected, "{} {:x?}", name, args);
        }
    }
}
