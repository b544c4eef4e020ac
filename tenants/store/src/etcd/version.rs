//! Which versions of etcd keep their word.

/// The first sound releases.
const SOUND: [(u64, u64, u64); 2] = [(3, 5, 28), (3, 6, 9)];

/// What is wrong with a member's version; `None`: nothing that is known.
///
/// Before 3.5.28 and 3.6.9 a member can serve stale reads after a pause, confirm a lease that was revoked,
/// and lose or repeat events of a watch. Nothing here decides by those: writes are fenced by comparisons, answers that
/// go back are refused, watches are checked and lists repeated; but detection gets slower.
pub fn version_warning(version: &str) -> Option<String> {
    const WHY: &str = "before 3.5.28 and 3.6.9 a member can serve stale reads after a pause, confirm a revoked \
                       lease, and lose or repeat watch events; writes stay safe, since every one is fenced, but plan \
                       an upgrade";
    let Some((major, minor, patch)) = parse(version) else {
        return Some(format!(
            "etcd says that its version is {version:?}, which is not understood"
        ));
    };
    let sound = SOUND
        .iter()
        .any(|(m, n, p)| (major, minor) == (*m, *n) && patch >= *p)
        || (major, minor) > (3, 6);
    (!sound).then(|| format!("etcd {version}: {WHY}"))
}

fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let plain = version.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_warned_of() {
        for old in [
            "3.4.23", "3.4.99", "3.5.0", "3.5.27", "3.6.0", "3.6.8", "2.3.8", "3.5", "none",
        ] {
            assert!(version_warning(old).is_some(), "{old}");
        }
        for sound in ["3.5.28", "3.5.30", "3.6.9", "3.6.9-rc.1+git", "3.7.0", "4.0.0"] {
            assert_eq!(version_warning(sound), None);
        }
    }
}
