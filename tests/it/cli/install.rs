//! What `make install` puts where: programs, the unit, completions and the manual, which say what
//! each program's help says; and that `make uninstall` leaves nothing.

use super::notice;
use crate::command::stdout;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const PROGRAMS: [&str; 6] = [
    env!("CARGO_BIN_EXE_mvirt-net"),
    env!("CARGO_BIN_EXE_mvirt"),
    env!("CARGO_BIN_EXE_mvirt-switchyardd"),
    env!("CARGO_BIN_EXE_mvirt-vswitch"),
    env!("CARGO_BIN_EXE_mvirt-dives"),
    env!("CARGO_BIN_EXE_mvirt-egress"),
];

/// Makes a folder look as if all were built there for release.
pub(crate) fn built(target: &Path) {
    let release = target.join("release");
    fs::create_dir_all(&release).unwrap();
    for program in PROGRAMS {
        let name = Path::new(program).file_name().unwrap();
        std::os::unix::fs::symlink(program, release.join(name)).unwrap();
    }
    let guests = target.join("guests");
    fs::create_dir_all(&guests).unwrap();
    fs::write(guests.join("uml-xstate.so"), "a library").unwrap();
    notice::write(&release);
}

/// Where is built and installed, as if it were built for release.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        built(&this.0.path().join("built"));
        this
    }

    fn make(&self, goals: &[&str], built: &str) -> Output {
        let mut make = Command::new("make");
        make.current_dir(env!("CARGO_MANIFEST_DIR"));
        // Run by another make, it would say where it is, and do what that was told.
        make.arg("--no-print-directory").env_remove("MAKEFLAGS");
        make.args(goals).env("CARGO_TARGET_DIR", self.0.path().join(built));
        // Who installs has no cargo.
        make.args(["CARGO=false", "PREFIX=/opt/net"]).env("DESTDIR", self.0.path().join("root"));
        make.output().unwrap()
    }

    /// Where a path of the prefix is installed.
    fn installed(&self, path: &str) -> PathBuf {
        self.0.path().join("root/opt/net").join(path)
    }

    fn read(&self, path: &str) -> String {
        let path = self.installed(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// Checks that what the pages of a folder link to is there, and returns how many links there are.
fn links_lead_somewhere(folder: &Path) -> usize {
    let mut links = 0;
    for page in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if page.is_dir() {
            links += links_lead_somewhere(&page);
            continue;
        }
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|it| !it.is_empty() && !it.contains("://")) {
            assert!(folder.join(target).exists(), "{}: {target}", page.display());
            links += 1;
        }
    }
    links
}

/// Returns the flags, in this style, that begin a line of a program's help.
fn flags(help: &str, dashes: &str) -> BTreeSet<String> {
    let first = help.lines().filter_map(|line| {
        let line = line.trim_start();
        // Behind a short one of clap's, and its comma.
        let line =
            line.split_once(", ").filter(|(short, _)| short.len() == 2).map_or(line, |it| it.1);
        line.starts_with(dashes).then(|| line.split([' ', ',', '=']).next().unwrap())
    });
    first.map(|flag| flag.trim_start_matches('-').to_owned()).collect()
}

// seed H.2.30
#[test]
fn what_make_installs_it_removes() {
    let place = Place::new();
    assert!(!place.make(&["install"], "nowhere").status.success(), "nothing is built there");
    let told = stdout(&place.make(&["install"], "built"));
    assert!(told.contains("systemctl enable --now mvirt-net"), "{told}");
    let unit = place.read("lib/systemd/system/mvirt-net.service");
    assert!(unit.contains("ExecStart=/opt/net/bin/mvirt-net\n"), "{unit}");
    for path in [
        "lib/sysusers.d/mvirt-net.conf",
        "lib/tmpfiles.d/mvirt-net.conf",
        "share/man/man1/mvirt-nic-create.1",
        "share/man/man5/net.toml.5",
        "share/doc/mvirt-net/decisions/0001-restart-position.md",
        "share/mvirt-net/net.proto",
        "lib/mvirt/uml-xstate.so",
        "share/doc/mvirt-net/examples/client.py",
        "share/doc/mvirt-net/NOTICE",
        "share/doc/mvirt-net/mvirt-net.cdx.json",
    ] {
        assert!(!place.read(path).is_empty(), "{path}");
    }
    assert!(links_lead_somewhere(&place.installed("share/doc/mvirt-net")) > 0);
    let names = ["mvirt-net", "mvirt", "mvirt-switchyardd", "mvirt-vswitch", "vswitch"];
    for program in names.into_iter().chain(["mvirt-dives", "mvirt-egress"]) {
        let mut command = Command::new(place.installed("bin").join(program));
        let version = stdout(&command.arg("--version").output().unwrap());
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
        let section = if program == "mvirt-net" { 8 } else { 1 };
        let page = place.read(&format!("share/man/man{section}/{program}.{section}"));
        assert!(page.contains("SH DESCRIPTION"), "{page}");
        let title = page.lines().find(|line| line.starts_with(".TH"));
        let title = title.unwrap_or_else(|| panic!("{page}")).to_lowercase();
        assert!(title.contains(&format!("{program} {section}")), "{title}");
        // What bash runs at the first TAB behind the name must be of that name.
        let script = place.installed("share/bash-completion/completions").join(program);
        let mut bash = Command::new("bash");
        let bash =
            bash.args(["-c", "source \"$0\" && complete -p \"$1\""]).arg(script).arg(program);
        stdout(&bash.output().unwrap());
        assert!(
            place
                .read(&format!("share/fish/vendor_completions.d/{program}.fish"))
                .contains("complete")
        );
        let file = program.replace("mvirt-vswitch", "vswitch");
        let zsh = place.read(&format!("share/zsh/site-functions/_{file}"));
        let names = zsh.lines().next().unwrap().strip_prefix("#compdef ");
        assert!(names.unwrap().split(' ').any(|name| name == program), "{names:?}");
    }
    // Who has changed the file of flags keeps what he has written.
    let file = place.0.path().join("root/etc/mvirt/net.toml");
    let sample = fs::read_to_string(&file).unwrap();
    assert!(sample.contains("\nlisten = "), "{sample}");
    fs::write(&file, "max-nics = 5\n").unwrap();
    stdout(&place.make(&["install"], "built"));
    let told = stdout(&place.make(&["uninstall"], "nowhere"));
    assert!(told.contains("stays: it was changed"), "{told}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "max-nics = 5\n");
    fs::remove_file(&file).unwrap();
    stdout(&place.make(&["install"], "built"));
    stdout(&place.make(&["uninstall"], "nowhere"));
    let mut find = Command::new("find");
    find.arg(place.0.path().join("root")).args(["-not", "-type", "d"]);
    assert_eq!(stdout(&find.output().unwrap()), "");
    let plan = stdout(&place.make(&["-n", "build", "clean"], "nowhere"));
    let plan: Vec<_> = plan.lines().collect();
    assert_eq!(plan.first(), Some(&"false build --release --locked"), "{plan:?}");
    assert!(plan.concat().contains("guests/uml-xstate.so"), "{plan:?}");
    assert!(plan.concat().contains("scripts/notice.py"), "{plan:?}");
    assert_eq!(plan.last(), Some(&"false clean"), "{plan:?}");
}

#[test]
fn pages_and_completions_have_every_flag_of_the_help() {
    let vswitch = fs::read_to_string("dist/mvirt-vswitch.1").unwrap();
    let help = Command::new(env!("CARGO_BIN_EXE_mvirt-vswitch")).arg("-help").output().unwrap();
    let help = String::from_utf8(help.stderr).unwrap();
    let expected = flags(&help, "-");
    assert!(expected.contains("stats-port") && expected.len() == 10, "{expected:?}");
    for flag in &expected {
        assert!(vswitch.contains(&format!("\\-{}\\fR", flag.replace('-', "\\-"))), "{flag}");
        for script in ["vswitch.bash", "_vswitch", "vswitch.fish"] {
            let text = fs::read_to_string(format!("dist/completions/{script}")).unwrap();
            let dashed = if script.ends_with("fish") { "-o " } else { "-" };
            assert!(text.contains(&format!("{dashed}{flag}")), "{script}: {flag}");
        }
    }
    for variable in help.split([' ', ',', '\n']).filter(|word| word.starts_with("VSWITCH_")) {
        assert!(vswitch.contains(variable), "{variable}");
    }
    for program in [PROGRAMS[0], PROGRAMS[2], PROGRAMS[4]] {
        let print = |arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            stdout(&output)
        };
        let expected = flags(&print(&["--help"]), "--");
        assert!(expected.len() > 4, "{program}: {expected:?}");
        for what in ["man", "bash", "zsh", "fish"] {
            let text = print(&["--generate", what]).replace("\\-", "-");
            let dashed = if what == "fish" { "-l " } else { "--" };
            for flag in &expected {
                assert!(text.contains(&format!("{dashed}{flag}")), "{program} {what}: {flag}");
            }
            assert!(!text.contains("take-over") && !text.contains("generate"), "{program} {what}");
        }
    }
}
