//! Users and groups by name or number.

use std::str::FromStr;

/// A user's number, from it or from a name of the user database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User(pub u32);

/// A group's number, from it or from a name of the group database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group(pub u32);

fn number(
    text: &str,
    kind: &str,
    by_name: impl FnOnce(&str) -> Option<u32>,
) -> Result<u32, String> {
    // The highest one means "none" to chown(2).
    match text.parse::<u32>().ok().filter(|number| *number != u32::MAX).or_else(|| by_name(text)) {
        Some(number) => Ok(number),
        None => Err(format!("there is no {kind} of that name; expected a name or a number")),
    }
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let by_name = |name: &str| uzers::get_user_by_name(name).map(|user| user.uid());
        number(text, "user", by_name).map(Self)
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let by_name = |name: &str| uzers::get_group_by_name(name).map(|group| group.gid());
        number(text, "group", by_name).map(Self)
    }
}

/// The groups that a user belongs to by the databases, which may have to ask a server.
pub fn groups_of(uid: u32) -> Vec<u32> {
    let Some(user) = uzers::get_user_by_uid(uid) else { return Vec::new() };
    let groups = uzers::get_user_groups(user.name(), user.primary_group_id()).unwrap_or_default();
    groups.iter().map(uzers::Group::gid).collect()
}

/// Permissions of a file in octal, like 660 or 0660.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u16);

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // All digits are said, and no sign, which `from_str_radix` takes: 66 is hardly meant.
        let octal = (3..=4).contains(&text.len()) && !text.starts_with('+');
        let mode = octal.then(|| u16::from_str_radix(text, 8).ok()).flatten();
        // Set-id and sticky bits mean nothing on a socket.
        let mode = mode.filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or_else(|| "expected an octal mode up to 777, like 660".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_users() {
        assert_eq!("root".parse(), Ok(User(0)));
        assert_eq!("4321".parse(), Ok(User(4321)));
        assert_eq!("root".parse(), Ok(Group(0)));
        for text in ["", "-1", "no such user", "4294967295"] {
            assert!(text.parse::<User>().is_err() && text.parse::<Group>().is_err(), "{text}");
        }
        assert!(groups_of(0).contains(&0));
        assert!(groups_of(u32::MAX - 7).is_empty());
        assert_eq!("660".parse(), Ok(Mode(0o660)));
        assert_eq!("0660".parse(), Ok(Mode(0o660)));
        for text in ["", "66", "0668", "1777", "+660", "rw-"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }
}
