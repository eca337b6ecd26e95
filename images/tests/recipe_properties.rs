//! What must hold for every build file: see `fuzz/bodies/recipe.rs`. Texts are made of the words
//! that build files are made of, so that they get past the first line.

#[path = "../../fuzz/bodies/recipe.rs"]
mod recipe;

#[cfg(test)]
mod properties {
    use proptest::prelude::*;
    use proptest::sample::select;

    const WORDS: &[&str] = &[
        "FROM ",
        "scratch",
        "busybox",
        " AS a",
        "\nRUN ",
        "\nCOPY ",
        "\nADD ",
        "\nENV ",
        "\nARG ",
        "\nLABEL ",
        "\nEXPOSE ",
        "\nHEALTHCHECK ",
        "\nONBUILD ",
        "\nWORKDIR ",
        "\nCMD ",
        "\nUSER ",
        "\nSHELL ",
        "\nVOLUME ",
        "\nENTRYPOINT ",
        "\nSTOPSIGNAL ",
        "--mount=",
        "type=cache,",
        "target=",
        "--from=a ",
        "--chmod=",
        "--interval=",
        "$GIVEN",
        "${a:-",
        "${a##*",
        "${a//b/",
        "}",
        "\"",
        "'",
        "\\",
        "\n",
        " ",
        "<<EOF",
        "<<-'X'",
        "\nEOF\n",
        "\nX\n",
        "[\"",
        "\", \"",
        "\"]",
        "=",
        "a",
        "b",
        "/",
        "..",
        ",",
        "1",
        "80-",
        "-1",
        "µ",
        "\u{0}",
        "\t",
        "# escape=`\n",
        "`",
        "CMD",
        "s",
        "ms",
        "9999999999",
        "*",
        "?",
        "é",
        "--",
    ];

    /// Of definition files.
    const LINES: &[&str] = &[
        "Bootstrap: docker",
        "bootstrap: scratch",
        "Bootstrap: localimage",
        "From: busybox",
        "From: {{ GIVEN }}",
        "Stage: one",
        "%files",
        "%files from one",
        "a b",
        "\"a b\" /c",
        "/srv/project/x /y",
        "/etc/passwd",
        "%post -c /bin/bash",
        "%post",
        "echo {{ GIVEN }} {{ OTHER }} {{",
        "echo >>$APPTAINER_ENVIRONMENT",
        "%arguments",
        "OTHER=\"1 2\"",
        "%environment",
        "export A=$B C='d' \\",
        "export PATH=/x:${PATH:-y}",
        "if true; then",
        "%runscript",
        "#!/bin/sh -e",
        "%startscript",
        "%test",
        "%labels",
        "A b c",
        "%help",
        "%setup",
        "#",
        "",
        "\\",
        "é %x",
    ];

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000, failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn no_build_file_makes_a_reader_panic(
            words in prop::collection::vec(select(WORDS), 0..40),
            has_base: bool,
        ) {
            let begin = if has_base { "FROM busybox AS a\n" } else { "" };
            super::recipe::check(format!("{begin}{}", words.concat()).as_bytes());
        }

        #[test]
        fn no_definition_file_makes_a_reader_panic(
            lines in prop::collection::vec(select(LINES), 0..40),
        ) {
            super::recipe::check(format!("Bootstrap: scratch\n{}", lines.join("\n")).as_bytes());
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
            super::recipe::check(&bytes);
        }
    }
}
