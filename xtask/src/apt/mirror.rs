//! Where Debian's packages are fetched from.

use std::fs;

const PUBLIC: &str = "http://deb.debian.org";

/// The two archives that make up a mirror of Debian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The archive proper.
    pub main: String,
    /// The archive of the suites whose names end in `-security`.
    pub security: String,
}

impl Mirror {
    /// The mirror that the system itself uses, if it names one, then the public one.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let public = Self {
            main: format!("{PUBLIC}/debian"),
            security: format!("{PUBLIC}/debian-security"),
        };
        let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        for entry in fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
        {
            text.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
            text.push('\n');
        }
        let own = Self {
            main: find_uri(&text, "/debian").unwrap_or_else(|| public.main.clone()),
            security: find_uri(&text, "/debian-security")
                .unwrap_or_else(|| public.security.clone()),
        };
        let mut mirrors = vec![own, public];
        mirrors.dedup();
        mirrors
    }
}

/// The first web address in a text of apt sources, of either format, whose path ends like this.
fn find_uri(text: &str, end: &str) -> Option<String> {
    let active = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    active
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.starts_with("http") && word.ends_with(end))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::find_uri;

    #[test]
    fn a_mirror_is_found_in_both_formats() {
        let text = "# deb http://old.example/debian x main\n\
            deb [arch=amd64] http://mirror.example/debian/ trixie main\n\
            URIs: https://other.example/debian-security\n";
        assert_eq!(
            find_uri(text, "/debian").as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(
            find_uri(text, "/debian-security").as_deref(),
            Some("https://other.example/debian-security")
        );
        assert_eq!(
            find_uri("deb https://x.example/apt y main", "/debian"),
            None
        );
    }
}
