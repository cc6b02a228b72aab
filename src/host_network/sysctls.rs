//! The kernel's switches that packets pass through the host by (`ip-sysctl.rst`).

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

/// Whether switches may be set that are not as they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sysctls {
    /// No: they are the administrator's.
    Told,
    /// Yes.
    Set,
}

/// A switch, and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sysctl {
    path: Cow<'static, str>,
    value: &'static str,
}

pub(super) const FORWARD_IPV4: Sysctl = of("net/ipv4/ip_forward");
pub(super) const FORWARD_IPV6: Sysctl = of("net/ipv6/conf/all/forwarding");

const fn of(path: &'static str) -> Sysctl {
    Sysctl { path: Cow::Borrowed(path), value: "1" }
}

/// Returns that by which an interface answers solicitations for what is behind the host.
pub(super) fn proxy_ndp(interface: &str) -> Sysctl {
    Sysctl { path: format!("net/ipv6/conf/{interface}/proxy_ndp").into(), value: "1" }
}

impl std::fmt::Display for Sysctl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name(), self.value)
    }
}

impl Sysctl {
    /// Returns its name as sysctl(8) writes it: a dot in an interface's name is a slash there.
    pub(super) fn name(&self) -> String {
        let swapped = |character| match character {
            '/' => '.',
            '.' => '/',
            other => other,
        };
        self.path.chars().map(swapped).collect()
    }

    fn file(&self, root: &Path) -> PathBuf {
        root.join(&*self.path)
    }

    /// Whether it is as it should be; not where the kernel has no such switch.
    pub(super) fn is_set(&self, root: &Path) -> bool {
        fs::read_to_string(self.file(root)).is_ok_and(|value| value.trim_end() == self.value)
    }

    /// Makes it what it should be.
    pub(super) fn set(&self, root: &Path) -> io::Result<()> {
        if *self == FORWARD_IPV6 {
            keep_hearing_routers(root)?;
        }
        fs::write(self.file(root), self.value)
    }
}

/// Lets interfaces that follow the advertisements of routers do so as a router, too: else the host
/// would lose its own default route.
fn keep_hearing_routers(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root.join("net/ipv6/conf"))? {
        let file = entry?.path().join("accept_ra");
        // An interface may go meanwhile.
        if fs::read_to_string(&file).is_ok_and(|value| value.trim_end() == "1") {
            fs::write(&file, "2")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_forwards_still_hears_its_routers() {
        let root = tempfile::tempdir().unwrap();
        let conf = root.path().join("net/ipv6/conf");
        for (name, accepts) in [("all", "0"), ("eth0", "1"), ("eth1", "0")] {
            fs::create_dir_all(conf.join(name)).unwrap();
            fs::write(conf.join(name).join("accept_ra"), format!("{accepts}\n")).unwrap();
        }
        fs::write(conf.join("all/forwarding"), "0\n").unwrap();
        assert!(!FORWARD_IPV6.is_set(root.path()));
        FORWARD_IPV6.set(root.path()).unwrap();
        assert!(FORWARD_IPV6.is_set(root.path()));
        let accepts = |name: &str| fs::read_to_string(conf.join(name).join("accept_ra")).unwrap();
        assert_eq!((&*accepts("eth0"), &*accepts("eth1")), ("2", "0\n"));
        assert_eq!(FORWARD_IPV6.to_string(), "net.ipv6.conf.all.forwarding=1");
        assert_eq!(proxy_ndp("eth0.5").to_string(), "net.ipv6.conf.eth0/5.proxy_ndp=1");
        assert!(!FORWARD_IPV4.is_set(root.path()), "this kernel has no IPv4");
    }
}
