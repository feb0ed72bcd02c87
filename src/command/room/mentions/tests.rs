//! The rule of mentions as a table, and its limits.

use std::{ops::ControlFlow, time::Instant};

use proptest::prelude::*;

use super::*;

/// The members of the room. `x32` is a name of 32 characters.
const MEMBERS: &[&str] = &[
    "bob",
    "ada",
    "a_b-c",
    "_x",
    "7up",
    "bob.smith",
    "carol.",
    "john[1]",
    "ep|phany",
    "away^_^",
    "x{y}",
    X32,
];
const X32: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

fn mentioned(body: &str) -> Vec<String> {
    let mut found = Vec::new();
    resolve(body, |name| {
        MEMBERS.contains(&name).then(|| found.push(name.to_owned()))
    });
    for name in &found {
        assert!(
            names(body).contains(name),
            "{body}: {name} is not looked up"
        );
    }
    found
}

#[test]
fn the_rule_as_a_table() {
    let long = format!("@{X32}yz");
    let exact = format!("@{X32}, hello");
    let cases: &[(&str, &[&str])] = &[
        // Latin, at the edges of the text and beside punctuation.
        ("@bob", &["bob"]),
        ("hi @bob", &["bob"]),
        ("@Bob and @ADA", &["bob", "ada"]),
        ("(@bob)", &["bob"]),
        ("\"@bob\"", &["bob"]),
        ("@bob's", &["bob"]),
        ("@bob’s", &["bob"]),
        ("@bob:", &["bob"]),
        ("@bob, @ada; @7up!", &["bob", "ada", "7up"]),
        ("@ada/@bob", &["ada", "bob"]),
        ("@bob@ada", &["bob"]),
        ("(@bob)@ada", &["bob", "ada"]),
        ("-@bob", &["bob"]),
        ("…@bob…", &["bob"]),
        ("**@bob** _(@ada)_", &["bob", "ada"]),
        ("@@bob", &["bob"]),
        ("line\n@bob\r\n@ada", &["bob", "ada"]),
        ("tab\t@bob\u{A0}@ada\u{200B}@7up", &["bob", "ada", "7up"]),
        // Trailing punctuation, which may belong to the name.
        ("ask @bob.", &["bob"]),
        ("ask @bob...", &["bob"]),
        ("@bob...are you", &["bob"]),
        ("@bob--please", &["bob"]),
        ("@bob.-", &["bob"]),
        ("[@bob]", &["bob"]),
        ("{@bob}", &["bob"]),
        ("|@bob|@ada|", &["bob", "ada"]),
        ("[x](@bob)", &["bob"]),
        ("[@bob](/users)", &["bob"]),
        ("@carol.", &["carol."]),
        ("@carol...", &["carol."]),
        // The longest name counts, and a part of a longer name is none.
        ("@bob.smith", &["bob.smith"]),
        ("@bob.smith.", &["bob.smith"]),
        ("@bob.jones", &[]),
        ("@bob-jones", &[]),
        ("@bobby", &[]),
        ("@bob_", &[]),
        ("@bob2", &[]),
        ("@John[1]", &["john[1]"]),
        ("@John[1]]", &["john[1]"]),
        ("@john[2]", &[]),
        ("@bob[1]", &["bob"]),
        ("@Ep|phany!", &["ep|phany"]),
        ("@away^_^", &["away^_^"]),
        ("@x{y}?", &["x{y}"]),
        ("@a_b-c", &["a_b-c"]),
        ("@_x", &["_x"]),
        (&exact, &[X32]),
        (&long, &[]),
        ("@", &[]),
        ("@ bob", &[]),
        ("@.bob", &[]),
        ("@-bob", &[]),
        ("@nobody", &[]),
        // Inside a word.
        ("a@bob", &[]),
        ("ada_@bob", &[]),
        ("mail ada@bob.smith", &[]),
        ("1@bob", &[]),
        ("é@bob", &[]),
        ("e\u{301}@bob", &[]),
        ("@bobé", &[]),
        ("@bob\u{301}", &[]),
        ("@bob.é", &[]),
        // Chinese.
        ("交给@bob处理", &["bob"]),
        ("@bob，你好", &["bob"]),
        ("@bob。", &["bob"]),
        ("@bob.你好", &["bob"]),
        ("〇@bob々", &["bob"]),
        ("\u{20000}@bob\u{2F800}", &["bob"]),
        // Japanese.
        ("これは@bobさんへ", &["bob"]),
        ("テスト@bobテスト", &["bob"]),
        ("ｶﾀｶﾅ@bobｶﾀｶﾅ", &["bob"]),
        ("「@bob」ー@ada", &["bob", "ada"]),
        // Korean.
        ("@bob님", &["bob"]),
        ("안녕@bob에게", &["bob"]),
        // Thai, Lao, Khmer, Burmese, Tibetan.
        ("ถึง@bobครับ", &["bob"]),
        ("ที่@bobก็", &["bob"]),
        ("ຫາ@bobແດ່", &["bob"]),
        ("ជូន@bobបាទ", &["bob"]),
        ("ဆီသို့@bobပါ", &["bob"]),
        ("ལ་@bobལ", &["bob"]),
        // Scripts with spaces between words: Cyrillic, Greek, Arabic, Hebrew, Devanagari, Armenian, Georgian.
        ("привет @bob, как дела", &["bob"]),
        ("привет@bob", &[]),
        ("@bobу", &[]),
        ("γεια@bob", &[]),
        ("@bobα", &[]),
        ("مرحبا @bob، كيف", &["bob"]),
        ("مرحبا@bob", &[]),
        ("שלום @bob", &["bob"]),
        ("שלום@bob", &[]),
        ("नमस्ते @bob।", &["bob"]),
        ("नमस्ते@bob", &[]),
        ("@bobजी", &[]),
        ("բարեւ@bob", &[]),
        ("გამარჯობა@bob", &[]),
        ("ｂｏｂ@bob", &[]),
        // Emoji.
        ("👍@bob👍", &["bob"]),
        ("👍🏽@bob", &["bob"]),
        ("❤️@bob❤️", &["bob"]),
        ("👩‍🚒@bob", &["bob"]),
        ("1️⃣@bob", &["bob"]),
        ("🇩🇪@bob", &["bob"]),
        // URLs.
        ("https://x.example/@bob/post", &[]),
        ("see https://x.example/@bob.", &[]),
        ("HTTPS://x.example/@bob", &[]),
        ("git+ssh://@bob", &[]),
        ("https://@bob", &[]),
        ("https://user@bob", &[]),
        ("x.example/@bob", &[]),
        ("www.x.example:8080/a/@bob", &[]),
        ("见https://x.example/@bob", &[]),
        ("https://x.example/@bob @ada", &["ada"]),
        ("<https://x.example/>@bob", &["bob"]),
        ("(https://x.example/a_(b))@bob", &["bob"]),
        ("[x](https://x.example/@ada)@bob", &["bob"]),
        ("https://x.example/。@bob", &["bob"]),
        ("|https://x.example/|@bob|", &["bob"]),
        ("and/@bob", &["bob"]),
        ("://@bob", &["bob"]),
        ("e.g./@bob", &["bob"]),
        ("1.5/@bob", &["bob"]),
        ("@bob.smith/@ada", &["bob.smith", "ada"]),
        ("src/main.rs/@bob", &["bob"]),
        // Inline code.
        ("`@bob`", &[]),
        ("``@bob ` @ada``", &[]),
        ("`a` @bob `b`", &["bob"]),
        ("`@bob", &["bob"]),
        ("``@bob`", &["bob"]),
        ("\\`@bob\\`", &["bob"]),
        ("`a\\`@bob`", &["bob"]),
        ("`a\nb @bob`", &[]),
        ("`a\n\nb @bob`", &["bob"]),
        ("- `a\n- @bob`", &["bob"]),
        ("`https://x.example/`@bob", &["bob"]),
        ("https://x.example/`@ada`@bob", &["bob"]),
        ("`@ada` ```@ada``` @bob", &["bob"]),
        // Fenced code.
        ("```\n@bob\n```", &[]),
        ("```rust\n@bob\n```\n@ada", &["ada"]),
        ("```\n@bob", &[]),
        ("~~~\n@bob\n```\n@ada\n~~~\n@7up", &["7up"]),
        ("````\n```\n@bob\n````", &[]),
        ("  ```\n  @bob\n  ```\n  @ada", &["ada"]),
        ("> ```\n> @bob\n> ```\n> @ada", &["ada"]),
        ("> ```\n> @bob\n@ada", &["ada"]),
        ("- ```\n  @bob\n  ```\n- @ada", &["ada"]),
        ("``` @bob ```", &[]),
        ("text ```\n@bob\n```", &[]),
        ("text\n```\n@bob\n```\n", &[]),
        ("```\r\n@bob\r\n```\r\n@ada", &["ada"]),
        ("~~@bob~~", &["bob"]),
    ];
    assert!(cases.len() >= 60);
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(body, expected)| {
            let found = mentioned(body);
            (found != *expected).then(|| format!("{body:?}: {found:?}, not {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_longest_reading_that_is_known_counts() {
    let mut asked = Vec::new();
    resolve("@bob. @carol.", |name| {
        asked.push(name.to_owned());
        (name == "carol.").then_some(())
    });
    assert_eq!(asked, ["bob.", "bob", "carol."]);
}

#[test]
fn readings_are_bounded_and_keep_the_longest_and_the_shortest() {
    assert_eq!(
        readings("John[1]] x"),
        ["john[1]]", "john[1]", "john[1", "john"]
    );
    assert_eq!(readings("a.b"), ["a.b"]);
    let dots = format!("bob{}", ".".repeat(60));
    let found = readings(&dots);
    assert_eq!(found.len(), MAX_READINGS);
    assert_eq!((&found[0], found[7].as_str()), (&dots, "bob"));
    assert_eq!(found[6], "bob.");
    // A longer run is no name, and its beginning is one only before punctuation.
    assert_eq!(readings(&"x".repeat(65)), [""; 0]);
    assert_eq!(readings(&"x".repeat(64)), ["x".repeat(64)]);
    assert_eq!(readings(&format!("bob|{}", "x".repeat(65))), ["bob"]);
}

#[test]
fn mentions_after_unknown_names_are_found_up_to_the_limit() {
    let unknown = |count: usize| -> String {
        (0..count)
            .map(|number| format!("@nobody{number} "))
            .collect()
    };
    for count in [0, 49, 50, 60, MAX_CANDIDATES - 1] {
        assert_eq!(
            mentioned(&format!("{}@bob", unknown(count))),
            ["bob"],
            "{count}"
        );
    }
    // A repeated name costs nothing.
    assert_eq!(
        mentioned(&format!("{}@bob", "@nobody ".repeat(3000))),
        ["bob"]
    );
    let too_many = format!("{}@bob", unknown(MAX_CANDIDATES));
    assert_eq!(mentioned(&too_many), [""; 0]);
    assert_eq!(names(&too_many).len(), MAX_CANDIDATES);
    // A name beyond the limit is no mention, even if another message had it looked up.
    resolve(&too_many, |name| {
        assert_ne!(name, "bob");
        None
    });
}

#[test]
fn a_body_mentions_at_most_fifty_members() {
    let body: String = (0..60).map(|number| format!("@u{number} @u0 ")).collect();
    let mut found = HashSet::new();
    resolve(&body, |name| {
        found.insert(name.to_owned());
        Some(())
    });
    assert_eq!(found.len(), MAX_MENTIONS);
    assert!(found.contains("u49") && !found.contains("u50"));
}

/// Bodies that make a careless scanner quadratic.
#[test]
fn hostile_bodies_take_linear_time() {
    const SIZE: usize = 1 << 17;
    let runs: String = (1..500).map(|length| "`".repeat(length) + " ").collect();
    let mut bodies: Vec<String> = [
        "@",
        "@.",
        "a@",
        "`@",
        "\u{301}@",
        "/@",
        "a.b/",
        ":/",
        "://",
        "x://@",
        "`` ` ",
        "> ```\n",
        "~~~\n",
        "\\`@",
        "@bob[",
        "www.x.example/(",
        "\u{200D}",
        "- `\n@",
    ]
    .map(|part| part.repeat(SIZE / part.len()))
    .into();
    bodies.push(runs + "@bob");
    bodies.push("\u{301}".repeat(SIZE / 2) + "@bob");
    for body in bodies {
        let start = Instant::now();
        let _ = names(&body);
        let took = start.elapsed();
        assert!(
            took.as_secs() < 5,
            "{:?}: {took:?}",
            &body.chars().take(9).collect::<String>()
        );
    }
}

proptest! {
    /// Every resolved name was looked up, and every candidate can be the name of a user.
    #[test]
    fn candidates_are_names(body in "([@`~/:.\\-a-c é交\n\\\\\\[\\]|]|https://|```|@bob){0,60}") {
        let all = names(&body);
        for name in &all {
            prop_assert!(username::is_username(name), "{}", name);
            prop_assert_eq!(&name.to_ascii_lowercase(), name);
        }
        let mut flow = ControlFlow::Continue(());
        resolve(&body, |name| {
            if !all.contains(name) {
                flow = ControlFlow::Break(());
            }
            None
        });
        prop_assert!(flow.is_continue());
        for range in skip::code_and_urls(&body) {
            prop_assert!(range.start < range.end && body.get(range).is_some());
        }
    }

    #[test]
    fn skipped_ranges_are_sorted_and_disjoint(body in "([@`~/:.a >\n\\\\]|https://|```\n|~~~\n|x.example/){0,80}") {
        let ranges = skip::code_and_urls(&body);
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{:?}", ranges);
    }
}
