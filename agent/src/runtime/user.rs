//! Who a container runs as: `USER` of the image and the pod's overrides, resolved with the image's own
//! /etc/passwd and /etc/group. Pure: the files come as text.

/// The two files of an image; empty where the image has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UserFiles {
    pub(super) passwd: String,
    pub(super) group: String,
}

/// A resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Home directory, for HOME.
    pub(super) home: Option<String>,
}

/// A name that the image does not know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnknownUser {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// The user part alone as a number; `None` when it is a name. Empty is root.
pub(super) fn numeric_uid(image_user: &str) -> Option<u32> {
    let user = image_user.split(':').next().unwrap_or_default();
    if user.is_empty() { Some(0) } else { user.parse().ok() }
}

/// Overrides first, then the image's `user[:group]`; the primary group and the memberships come from the files.
pub(super) fn resolve(
    image_user: &str,
    uid: Option<u32>,
    gid: Option<u32>,
    files: &UserFiles,
) -> Result<Identity, UnknownUser> {
    let (user, group) = image_user.split_once(':').map_or((image_user, None), |(u, g)| (u, Some(g)));
    // With runAsUser the image's own user, its group included, no longer counts.
    let group = if uid.is_some() { None } else { group.filter(|g| !g.is_empty()) };
    let account = match uid.or_else(|| numeric_uid(user)) {
        Some(uid) => accounts(&files.passwd).find(|a| a.uid == uid).ok_or(uid),
        None => Ok(accounts(&files.passwd)
            .find(|a| a.name == user)
            .ok_or_else(|| UnknownUser::User(user.to_owned()))?),
    };
    let mut identity = match &account {
        Ok(account) => Identity {
            uid: account.uid,
            gid: account.gid,
            groups: memberships(account.name, &files.group),
            home: Some(account.home.to_owned()).filter(|h| !h.is_empty()),
        },
        Err(uid) => Identity { uid: *uid, ..Identity::default() },
    };
    if let Some(gid) = gid {
        identity.gid = gid;
    } else if let Some(group) = group {
        identity.gid = match group.parse() {
            Ok(gid) => gid,
            Err(_) => groups(&files.group)
                .find(|(name, ..)| *name == group)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| UnknownUser::Group(group.to_owned()))?,
        };
    }
    Ok(identity)
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    groups(group)
        .filter(|(_, _, members)| members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> UserFiles {
        UserFiles {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\nbroken\npostgres:x:999:998::/var/lib/postgresql:/bin/sh\n"
                    .into(),
            group: "root:x:0:\npostgres:x:998:\nssl:x:101:daemon,postgres\n".into(),
        }
    }

    #[test]
    fn image_without_user_is_root() {
        let root = resolve("", None, None, &files()).unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_deref()), (0, 0, Some("/root")));
    }

    #[test]
    fn name_brings_group_memberships_and_home() {
        let user = resolve("postgres", None, None, &files()).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (999, 998, vec![101]));
    }

    #[test]
    fn number_known_to_the_image_brings_its_group() {
        assert_eq!(resolve("999", None, None, &files()).unwrap().gid, 998);
    }

    #[test]
    fn unknown_number_is_fine_and_in_group_root() {
        let user = resolve("1000", None, None, &UserFiles::default()).unwrap();
        assert_eq!(user, Identity { uid: 1000, ..Identity::default() });
    }

    #[test]
    fn explicit_group_by_name_or_number() {
        assert_eq!(resolve("1000:ssl", None, None, &files()).unwrap().gid, 101);
        assert_eq!(resolve("postgres:7", None, None, &files()).unwrap().gid, 7);
    }

    #[test]
    fn run_as_user_replaces_the_whole_image_user() {
        let user = resolve("postgres:ssl", Some(1000), None, &files()).unwrap();
        assert_eq!((user.uid, user.gid), (1000, 0));
        assert_eq!(resolve("postgres", Some(1000), Some(3000), &files()).unwrap().gid, 3000);
    }

    #[test]
    fn unknown_names_are_told() {
        assert_eq!(resolve("app", None, None, &files()), Err(UnknownUser::User("app".into())));
        assert_eq!(resolve("0:app", None, None, &files()), Err(UnknownUser::Group("app".into())));
    }

    #[test]
    fn numeric_part_of_the_image_user() {
        assert_eq!(numeric_uid(""), Some(0));
        assert_eq!(numeric_uid("12:x"), Some(12));
        assert_eq!(numeric_uid("app:0"), None);
    }
}
