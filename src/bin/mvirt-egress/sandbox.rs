//! What this process may still do once it takes packets of guests: what carries them, and nothing
//! else. No file is opened any more, nothing is run, no other family of sockets is used.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use std::{collections::BTreeMap, env::consts::ARCH, error::Error};

/// Any arguments.
const CALLS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpeername,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Locks this process in, for good.
pub(crate) fn enter() -> Result<(), Box<dyn Error>> {
    let mut rules: BTreeMap<_, _> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    // Older than the others, and not on every kind of machine.
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_epoll_wait, Vec::new());
    let families = [libc::AF_INET, libc::AF_INET6];
    let families = families.map(|family| only(0, SeccompCmpOp::Eq, family as u64));
    rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
    // Memory of its own, and none that could be run.
    let anonymous = libc::MAP_ANONYMOUS as u64;
    let mapping = SeccompRule::new(vec![
        condition(3, SeccompCmpOp::MaskedEq(anonymous), anonymous)?,
        condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?,
    ])?;
    rules.insert(libc::SYS_mmap, vec![mapping]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    // Sets no_new_privs as well, without which the kernel would not take it.
    Ok(apply_filter(&program)?)
}

fn only(argument: u8, how: SeccompCmpOp, value: u64) -> seccompiler::Result<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, how, value)?])?)
}

fn condition(argument: u8, how: SeccompCmpOp, value: u64) -> seccompiler::Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?)
}
