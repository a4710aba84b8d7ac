//! What mount(8) and fstab say, and properties over any mixture of it.

use proptest::prelude::*;

use super::*;

fn mapped(options: &str) -> Result<Mapped, OptionError> {
    map(OsStr::new(options), false)
}

fn passed(options: &str) -> Vec<String> {
    mapped(options).unwrap().passed.into_iter().map(|option| option.into_string().unwrap()).collect()
}

#[test]
fn an_fstab_line_leaves_what_concerns_flashget() {
    let line = "rw,noexec,nosuid,nodev,_netdev,nofail,noauto,user=ann,x-systemd.automount,x-systemd.idle-timeout=1min,\
                X-mount.mkdir,comment=lab files,home=/srv/fg,uid=1000,umask=022,allow_other";
    assert_eq!(passed(line), ["noexec", "uid=1000", "umask=022", "allow_other"]);
    assert_eq!(mapped(line).unwrap().home, Some("/srv/fg".into()));
    assert_eq!(mapped(line).unwrap().joined(), Some("noexec,uid=1000,umask=022,allow_other".into()));
}

#[test]
fn noexec_had_no_effect() {
    for (options, noexec) in [
        ("noexec", true),
        ("user", true),
        ("users,nosuid", true),
        ("user=ann", true),
        ("exec,user", true),
        ("user,exec", false),
        ("noexec,exec", false),
        ("exec", false),
        ("owner,group,nouser,defaults", false),
    ] {
        assert_eq!(passed(options), if noexec { vec!["noexec"] } else { vec![] }, "{options}");
    }
}

#[test]
fn nothing_to_say_is_no_option_at_all() {
    assert_eq!(mapped("").unwrap(), Mapped::default());
    assert_eq!(mapped("defaults,,rw,").unwrap().joined(), None);
}

#[test]
fn an_unknown_option_is_named_and_left_out_if_sloppy() {
    let error = mapped("ro,uids=3").unwrap_err();
    assert_eq!(error, OptionError::Unknown("uids".into()));
    assert!(error.to_string().contains("'uids'"), "{error}");
    assert_eq!(map(OsStr::new("ro,uids=3"), true).unwrap().passed, ["ro"]);
}

#[test]
fn what_would_be_a_false_promise_is_refused() {
    assert_eq!(mapped("remount,ro"), Err(OptionError::Remount));
    for option in ["context=system_u:object_r:x", "bind", "nosymfollow", "password=x", "UID=3"] {
        assert!(matches!(mapped(option), Err(OptionError::Unknown(_))), "{option}");
    }
}

#[test]
fn a_wrong_value_is_refused_even_if_sloppy() {
    for (options, error) in [
        ("uid", OptionError::NeedsValue("uid".into())),
        ("uid=", OptionError::NeedsValue("uid".into())),
        ("home", OptionError::NeedsValue("home".into())),
        ("soft=1", OptionError::TakesNoValue("soft".into())),
        ("home=lab", OptionError::RelativePath("home".into())),
        ("keyfile=key", OptionError::RelativePath("keyfile".into())),
        ("keyfile=\"/a,b\"", OptionError::Comma("keyfile".into())),
        ("home=\"/a", OptionError::OpenQuote),
    ] {
        for sloppy in [false, true] {
            assert_eq!(map(OsStr::new(options), sloppy), Err(error.clone()), "{options}");
        }
    }
}

#[test]
fn the_last_one_counts_and_trackers_add_up() {
    assert_eq!(passed("soft,timeo=5,hard,timeo=9"), ["hard", "timeo=9"]);
    assert_eq!(passed("hard,soft"), ["soft"]);
    assert_eq!(passed("tracker=a:1,tracker=b:2,tracker=a:1"), ["tracker=b:2", "tracker=a:1"]);
    assert_eq!(mapped("home=/a,home=/b").unwrap().home, Some("/b".into()));
}

#[test]
fn quotes_hold_commas_together() {
    assert_eq!(
        mapped("home=\"/srv/a,b\",ro").unwrap(),
        Mapped { home: Some("/srv/a,b".into()), passed: vec!["ro".into()] }
    );
    assert_eq!(passed("comment=\"a,b\",timeo=\"30\""), ["timeo=30"]);
}

#[test]
fn values_are_bytes_and_errors_are_safe_to_print() {
    let options = OsString::from_vec(b"keyfile=/k\xff,b\x1b[2J=1".to_vec());
    assert_eq!(map(&options, true).unwrap().passed, [OsString::from_vec(b"keyfile=/k\xff".to_vec())]);
    assert_eq!(map(&options, false), Err(OptionError::Unknown("b\\x1b[2J".into())));
}

fn ignored() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(IGNORED).prop_map(str::to_owned),
        "[xX]-[a-z.]{0,8}(=[a-z0-9:/]{0,5})?",
        "comment=[a-z =]{0,9}",
        Just(String::new()),
    ]
}

fn known() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(FLAGS).prop_map(str::to_owned),
        (proptest::sample::select(VALUES), "/[a-zA-Z0-9:./=-]{0,12}")
            .prop_map(|(name, value)| format!("{name}={value}")),
        "home=/[a-z/]{0,9}",
    ]
}

fn unknown() -> impl Strategy<Value = String> {
    "[a-z_]{1,12}".prop_filter("must be nobody's", |name| matches!(classify(name.as_bytes()), Class::Unknown))
}

/// `extra` put among `into`, at places that `at` tells.
fn mix(into: &[String], extra: &[String], at: &[proptest::sample::Index]) -> String {
    let mut all = into.to_vec();
    for (option, at) in extra.iter().zip(at) {
        all.insert(at.index(all.len() + 1), option.clone());
    }
    all.join(",")
}

proptest! {
    #[test]
    fn any_bytes_are_mapped_or_refused(options in proptest::collection::vec(any::<u8>(), 0..80), sloppy: bool) {
        let _ = map(OsStr::from_bytes(&options), sloppy);
    }

    #[test]
    fn ignored_options_change_nothing(
        some in proptest::collection::vec(known(), 0..8),
        noise in proptest::collection::vec(ignored(), 0..8),
        at: [proptest::sample::Index; 8],
    ) {
        prop_assert_eq!(mapped(&mix(&some, &noise, &at)), mapped(&some.join(",")));
    }

    #[test]
    fn one_unknown_option_refuses_all_by_its_name_and_sloppiness_forgets_it(
        some in proptest::collection::vec(known(), 0..8),
        stray in unknown(),
        at: [proptest::sample::Index; 1],
    ) {
        let options = mix(&some, std::slice::from_ref(&stray), &at);
        prop_assert_eq!(mapped(&options), Err(OptionError::Unknown(stray)));
        prop_assert_eq!(map(OsStr::new(&options), true), mapped(&some.join(",")));
    }

    #[test]
    fn everything_known_arrives_once_and_unchanged(some in proptest::collection::vec(known(), 0..12)) {
        let mapped = mapped(&some.join(",")).unwrap();
        for option in &mapped.passed {
            prop_assert!(some.iter().any(|given| OsStr::new(given) == option));
        }
        for given in &some {
            let name = given.split('=').next().unwrap();
            let rivals: &[&str] = if ["soft", "hard"].contains(&name) { &["soft", "hard"] } else { &[name] };
            let count = mapped.passed.iter().filter(|option| {
                rivals.contains(&option.to_str().unwrap().split('=').next().unwrap())
            }).count();
            let as_often_as_it_should = match name {
                "home" => count == 0,
                name if REPEATED.contains(&name) => count >= 1,
                _ => count == 1,
            };
            prop_assert!(as_often_as_it_should, "{} of {}", count, name);
            prop_assert!(!REPEATED.contains(&name) || mapped.passed.contains(&given.into()));
        }
        prop_assert_eq!(mapped.home, some.iter().rev().find_map(|given| given.strip_prefix("home=")).map(OsString::from));
    }

    #[test]
    fn what_is_passed_on_would_be_passed_on_again(some in proptest::collection::vec(known(), 0..12)) {
        let first = mapped(&some.join(",")).unwrap();
        let again = map(&first.joined().unwrap_or_default(), false).unwrap();
        prop_assert_eq!(again.passed, first.passed);
        prop_assert_eq!(again.home, None);
    }
}
