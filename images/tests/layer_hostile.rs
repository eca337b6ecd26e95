//! What archives from strangers try, and what honest ones need, as root and as an ordinary user.
//!
//! Each case says what tree it makes or why it is refused. All run beside a canary that must not
//! change, and root and user must see the same.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::tests_outside_test_module, reason = "all of this file is tests")]
#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod layer_archive;
mod layer_twice;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use layer_archive::{Archive, Header, chain, plain};
use layer_twice::{Canary, listing, twice};
use ric_images::{Limits, unpack_layer};

/// What becomes of an archive.
enum Expected {
    /// This tree, the root's own line left out.
    Tree(&'static [&'static str]),
    /// A tree in which one line ends like this; the path before depends on where the canary is.
    Inside(&'static str),
    /// A refusal that says this.
    Refused(&'static str),
}
use Expected::{Inside, Refused, Tree};

/// A name, an archive made with the path of the canary, what becomes of it.
type Case = (&'static str, fn(&str) -> Archive, Expected);

fn check(test: &str, cases: &[Case]) {
    twice(test, |directory| cases.iter().flat_map(|case| unpack(directory, case)).collect());
}

/// The canary is `../canary` from the root of the tree.
fn unpack(parent: &Path, (name, make, expected): &Case) -> Vec<String> {
    let place = parent.join(name);
    fs::create_dir(&place).unwrap();
    let canary = Canary::new(&place);
    let root = place.join("root");
    fs::create_dir(&root).unwrap();
    let tar = make(canary.path.to_str().unwrap()).end();
    let limits = Limits { unpacked_bytes_max: 1 << 20, entries_max: 1000, ..Limits::default() };
    let opened = File::open(&root).unwrap();
    let result = unpack_layer(&plain(&tar), &mut tar.as_slice(), &limits, opened.as_fd());
    canary.check(name);
    match (result, expected) {
        (Ok(_), Tree(lines)) => {
            let seen = listing(&root);
            assert_eq!(&seen[1..], *lines, "{name}");
            seen
        }
        (Ok(_), Inside(end)) => {
            let seen = listing(&root);
            assert!(seen.iter().any(|line| line.ends_with(end)), "{name}: {seen:?}");
            vec![(*end).to_owned()]
        }
        (Err(error), Refused(word)) => {
            let text = chain(&error).replace(canary.path.to_str().unwrap(), "CANARY");
            assert!(text.contains(word), "{name}: {text}");
            vec![format!("{name}: {text}")]
        }
        (Ok(_), Refused(word)) => panic!("{name} not refused ({word}): {:?}", listing(&root)),
        (Err(error), Tree(_) | Inside(_)) => panic!("{name}: {}", chain(&error)),
    }
}

fn new() -> Archive {
    Archive::new()
}

/// T41: `..` is refused wherever it stands; absolute names begin at the layer's root.
#[test]
fn names_stay_below_the_root() {
    check(
        "names_stay_below_the_root",
        &[
            ("dotdot", |_| new().file("../canary/evil", "x"), Refused("`..`")),
            ("dotdot_inside", |_| new().file("a/../../canary/evil", "x"), Refused("`..`")),
            ("dotdot_last", |_| new().directory("a/.."), Refused("`..`")),
            (
                "absolute",
                |canary| {
                    new()
                        .pax(b'x', &[("path", format!("{canary}/secret").as_bytes())])
                        .file("?", "evil")
                },
                Inside("canary/secret 644 @1000 \"evil\""),
            ),
            (
                "slashes",
                |_| new().directory("/etc").file("//etc//./passwd", "x"),
                Tree(&["etc/ 755 @1000", "etc/passwd 644 @1000 \"x\""]),
            ),
        ],
    );
}

/// T42: what a layer's links lead to is inside the layer.
#[test]
fn links_never_lead_out() {
    check(
        "links_never_lead_out",
        &[
            (
                "absolute_link",
                |canary| {
                    new()
                        .pax(b'x', &[("linkpath", canary.as_bytes())])
                        .symlink("l", "?")
                        .file("l/secret", "evil")
                },
                Inside("canary/secret 644 @1000 \"evil\""),
            ),
            (
                "relative_link",
                |_| new().symlink("l", "../canary").file("l/secret", "evil"),
                Tree(&[
                    "canary/ 755 @0",
                    "canary/secret 644 @1000 \"evil\"",
                    "l -> ../canary @1000",
                ]),
            ),
            (
                "chain_of_links",
                |_| {
                    new()
                        .symlink("a", "d/b")
                        .directory("d")
                        .symlink("d/b", "../c")
                        .symlink("c", "../../canary")
                        .file("a/directory/file", "evil")
                },
                Inside("canary/directory/file 644 @1000 \"evil\""),
            ),
            (
                "link_where_the_file_goes",
                |canary| {
                    new()
                        .pax(b'x', &[("linkpath", format!("{canary}/secret").as_bytes())])
                        .symlink("secret", "?")
                        .file("secret", "evil")
                },
                Tree(&["secret 644 @1000 \"evil\""]),
            ),
            (
                "proc_self_root",
                |_| new().symlink("l", "/proc/self/root").file("l/evil", "x"),
                Inside("proc/self/root/evil 644 @1000 \"x\""),
            ),
            (
                "proc_self_cwd",
                |_| {
                    new()
                        .symlink("proc/self/cwd", "../../../canary")
                        .file("proc/self/cwd/secret", "x")
                },
                Inside("canary/secret 644 @1000 \"x\""),
            ),
            (
                "link_loop",
                |_| new().symlink("a", "b").symlink("b", "a").file("a/x", "x"),
                Refused("too many symbolic links"),
            ),
            (
                "link_to_itself_and_more",
                |_| new().symlink("a", "a/a/a/a").file("a/x", "x"),
                Refused("too many symbolic links"),
            ),
            (
                "link_to_a_file",
                |_| new().file("f", "x").symlink("l", "f").file("l/x", "x"),
                Refused("`f` is not a directory"),
            ),
            ("empty_target", |_| new().symlink("l", ""), Refused("link target is empty")),
        ],
    );
}

/// T43: a hard link takes nothing from outside, and nothing that the layer does not hold.
#[test]
fn hard_links_stay_in_the_layer() {
    const NOT_HERE: &str = "is not a file of this layer";
    check(
        "hard_links_stay_in_the_layer",
        &[
            (
                "absolute",
                |canary| {
                    new()
                        .pax(b'x', &[("linkpath", format!("{canary}/secret").as_bytes())])
                        .hard_link("h", "?")
                },
                Refused(NOT_HERE),
            ),
            ("dotdot", |_| new().hard_link("h", "../canary/secret"), Refused("`..`")),
            (
                "through_link",
                |_| new().symlink("l", "../canary").hard_link("h", "l/secret"),
                Refused(NOT_HERE),
            ),
            (
                "then_overwrite",
                |_| new().symlink("l", "../canary/secret").hard_link("h", "l").file("h", "evil"),
                Tree(&["h 644 @1000 \"evil\"", "l -> ../canary/secret @1000"]),
            ),
            ("to_itself", |_| new().file("h", "x").hard_link("h", "h"), Refused(NOT_HERE)),
            ("to_a_directory", |_| new().directory("d").hard_link("h", "d"), Refused(NOT_HERE)),
            ("to_the_root", |_| new().hard_link("h", "/"), Refused(NOT_HERE)),
            ("to_a_whiteout", |_| new().file(".wh.w", "").hard_link("h", "w"), Refused(NOT_HERE)),
            ("to_a_later_file", |_| new().hard_link("h", "f").file("f", "x"), Refused(NOT_HERE)),
            (
                "within",
                |_| new().directory("d").file("d/f", "x").symlink("l", "d").hard_link("h", "/l/f"),
                Tree(&["d/ 755 @1000", "d/f 644 @1000 \"x\"", "h = d/f", "l -> d @1000"]),
            ),
        ],
    );
}

/// T44: whiteouts stay in the layer; malformed ones are errors, not files.
#[test]
fn whiteouts_stay_in_the_layer() {
    const MALFORMED: &str = "malformed whiteout";
    check(
        "whiteouts_stay_in_the_layer",
        &[
            (
                "through_link",
                |_| new().symlink("l", "../canary").file("l/.wh.secret", ""),
                Tree(&["canary/ 755 @0", "canary/secret whiteout", "l -> ../canary @1000"]),
            ),
            (
                "opaque_through_link",
                |_| new().symlink("l", "../canary").file("l/.wh..wh..opq", ""),
                Tree(&["canary/ 755 @0 user.overlay.opaque=y", "l -> ../canary @1000"]),
            ),
            ("dotdot", |_| new().file("../canary/.wh.secret", ""), Refused("`..`")),
            (
                "directory_by_a_link",
                |_| new().symlink("d", ".wh.e").file("d/x", "x"),
                Refused(MALFORMED),
            ),
            ("of_nothing", |_| new().file(".wh.", ""), Refused(MALFORMED)),
            ("of_dot", |_| new().file("a/.wh..", ""), Refused(MALFORMED)),
            ("of_dotdot", |_| new().file("a/.wh...", ""), Refused(MALFORMED)),
            ("of_aufs", |_| new().file(".wh..wh.aufs", ""), Refused(MALFORMED)),
            ("directory", |_| new().directory(".wh.a"), Refused(MALFORMED)),
            ("parent", |_| new().file(".wh.a/b", ""), Refused(MALFORMED)),
            ("link", |_| new().symlink(".wh.a", "b"), Refused(MALFORMED)),
            (
                "literal_device",
                |_| new().header(Header::new(b'3', "secret").bytes(329, b"0000000\x000000000")),
                Tree(&[]),
            ),
            ("opaque_root", |_| new().file(".wh..wh..opq", ""), Tree(&[])),
        ],
    );
}

/// Whiteouts are about lower layers: what this one holds stays, whichever comes first.
#[test]
fn whiteouts_spare_their_own_layer() {
    check(
        "whiteouts_spare_their_own_layer",
        &[
            (
                "file_first",
                |_| new().file("a", "x").file(".wh.a", ""),
                Tree(&["a 644 @1000 \"x\""]),
            ),
            ("file_last", |_| new().file(".wh.a", "").file("a", "x"), Tree(&["a 644 @1000 \"x\""])),
            (
                "directory_first",
                |_| new().directory("a").file("a/b", "x").file(".wh.a", ""),
                Tree(&["a/ 755 @1000 user.overlay.opaque=y", "a/b 644 @1000 \"x\""]),
            ),
            (
                "directory_last",
                |_| new().file(".wh.a", "").directory("a").file("a/b", "x"),
                Tree(&["a/ 755 @1000 user.overlay.opaque=y", "a/b 644 @1000 \"x\""]),
            ),
            (
                "implied_directory_last",
                |_| new().file(".wh.a", "").file("a/b", "x"),
                Tree(&["a/ 755 @0 user.overlay.opaque=y", "a/b 644 @1000 \"x\""]),
            ),
            ("again", |_| new().file(".wh.a", "").file(".wh.a", ""), Tree(&["a whiteout"])),
        ],
    );
}

/// T45: the root of a layer is a directory and nothing else.
#[test]
fn root_can_only_be_a_directory() {
    const ROOT: &str = "the root of a layer must be a directory";
    check(
        "root_can_only_be_a_directory",
        &[
            ("dot_link", |_| new().symlink(".", "../canary").file("x", "x"), Refused(ROOT)),
            ("slash_link", |_| new().symlink("./", "../canary").file("x", "x"), Refused(ROOT)),
            ("slash_file", |_| new().file("/", "x"), Refused(ROOT)),
            ("root_hard_link", |_| new().file("x", "x").hard_link("/", "x"), Refused(ROOT)),
            ("empty_name", |_| new().directory(""), Refused("its name is empty")),
            (
                "directory",
                |_| new().header(Header::new(b'5', "./").mode(0o555)).file("x", "x"),
                Tree(&["x 644 @1000 \"x\""]),
            ),
        ],
    );
}

/// T46: modes and owners go to what the layer made, never through a link.
#[test]
fn metadata_follows_no_link() {
    check(
        "metadata_follows_no_link",
        &[
            (
                "directory_over_link",
                |_| {
                    new()
                        .symlink("d", "../canary/directory")
                        .header(Header::new(b'5', "d").mode(0o777))
                },
                Tree(&["d/ 777 @1000 user.overlay.opaque=y"]),
            ),
            (
                "link_over_directory",
                |_| {
                    new()
                        .header(Header::new(b'5', "d").mode(0o777))
                        .directory("d/e")
                        .symlink("d", "../canary")
                },
                Tree(&["d -> ../canary @1000"]),
            ),
            (
                "owner_of_link",
                |_| new().header(Header::new(b'2', "l").uid(1234).link("../canary/secret")),
                Tree(&["l -> ../canary/secret @1000"]),
            ),
        ],
    );
}

/// T47: no devices, no capabilities, no marks of overlayfs; set-user-id bits are kept, in a store
/// that no one else can enter.
#[test]
fn privileges_are_left_out() {
    check(
        "privileges_are_left_out",
        &[
            (
                "set_user_id",
                |_| new().sized(Header::new(b'0', "s").mode(0o6755).uid(1000), b"x"),
                Tree(&["s 6755 @1000 \"x\""]),
            ),
            (
                "char",
                |_| new().header(Header::new(b'3', "null")).file("x", ""),
                Tree(&["x 644 @1000 \"\""]),
            ),
            (
                "block",
                |_| new().header(Header::new(b'4', "sda")).file("x", ""),
                Tree(&["x 644 @1000 \"\""]),
            ),
            (
                "fifo",
                |_| new().header(Header::new(b'6', "fifo").mode(0o622)),
                Tree(&["fifo fifo 622 @1000"]),
            ),
            (
                "attributes",
                |_| {
                    new()
                        .pax(
                            b'x',
                            &[
                                (
                                    "SCHILY.xattr.security.capability",
                                    b"\x01\0\0\x02\xff\xff\xff\xff",
                                ),
                                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                                ("SCHILY.xattr.user.run-in-container.forged", b"0:0"),
                                ("SCHILY.xattr.system.posix_acl_access", b"?"),
                                ("SCHILY.xattr.user.kept", b"a\nb"),
                            ],
                        )
                        .directory("d")
                },
                Tree(&["d/ 755 @1000 user.kept=a\\nb"]),
            ),
            (
                "attributes_of_unreadable_file",
                |_| {
                    new()
                        .pax(b'x', &[("SCHILY.xattr.user.kept", b"x")])
                        .sized(Header::new(b'0', "f").mode(0), b"x")
                },
                Tree(&["f 0 @1000 \"x\" user.kept=x"]),
            ),
        ],
    );
}

/// T51: numbers beyond what can be kept.
#[test]
fn numbers_are_bounded() {
    check(
        "numbers_are_bounded",
        &[
            (
                "uid",
                |_| new().header(Header::new(b'5', "d").uid((1 << 31) + 5)),
                Refused("owner 2147483653 is not between"),
            ),
            (
                "gid",
                |_| new().header(Header::new(b'5', "d").gid((1 << 32) - 2)),
                Refused("owner 4294967294 is not between"),
            ),
            (
                "pax_uid",
                |_| new().pax(b'x', &[("uid", b"4294967295")]).directory("d"),
                Refused("owner 4294967295"),
            ),
            (
                "late",
                |_| new().header(Header::new(b'5', "d").mtime(1 << 40)),
                Tree(&["d/ 755 @15032385535"]),
            ),
            (
                "early",
                |_| new().header(Header::new(b'5', "d").mtime(-(1 << 40))),
                Tree(&["d/ 755 @-2147483648"]),
            ),
            (
                "pax_late",
                |_| new().pax(b'x', &[("mtime", b"99999999999999999999.5")]).directory("d"),
                Refused("mtime of an extended header is not a"),
            ),
            (
                "negative_size",
                |_| new().header(Header::new(b'0', "f").size(-1)),
                Refused("a negative or absurd size"),
            ),
            (
                "absurd_size",
                |_| {
                    new().header(
                        Header::new(b'0', "f").bytes(124, &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
                    )
                },
                Refused("a negative or absurd size"),
            ),
            (
                "huge_size",
                |_| new().header(Header::new(b'0', "f").size(1 << 50)),
                Refused("passes the limit unpacked_bytes_max"),
            ),
            (
                "huge_pax_size",
                |_| new().pax(b'x', &[("size", b"1125899906842624")]).file("f", ""),
                Refused("passes the limit unpacked_bytes_max"),
            ),
            (
                "negative_pax_size",
                |_| new().pax(b'x', &[("size", b"-512")]).file("f", ""),
                Refused("size of an extended header is not a number"),
            ),
            (
                "huge_extended_header",
                |_| new().header(Header::new(b'x', "pax").size((1 << 20) + 1)),
                Refused("passes the limit unpacked_bytes_max"),
            ),
        ],
    );
}

/// T52: what is no archive, or not all of one.
#[test]
fn malformed_archives_are_errors() {
    let text = "not a tar ".repeat(200);
    assert!(text.len() > 1024);
    check(
        "malformed_archives_are_errors",
        &[
            (
                "text",
                |_| new().content("not a tar ".repeat(200).as_bytes()),
                Refused("not a tar header"),
            ),
            (
                "cut_content",
                |_| new().header(Header::new(b'0', "f").size(100_000)),
                Refused("the archive ends in the middle"),
            ),
            (
                "single_zero_block",
                |_| new().content(&[0; 512]).file("f", "x"),
                Refused("a single block of zeros"),
            ),
            (
                "content_of_a_link",
                |_| new().sized(Header::new(b'2', "l").link("x"), b"hidden"),
                Refused("claims 6 bytes of content"),
            ),
            (
                "content_of_a_directory",
                |_| new().sized(Header::new(b'5', "d"), b"hidden"),
                Refused("claims 6 bytes of content"),
            ),
            ("volume", |_| new().header(Header::new(b'V', "v")), Refused("entry type 0x56")),
            ("gnu_sparse", |_| new().header(Header::new(b'S', "s")), Refused("sparse files")),
            (
                "pax_sparse",
                |_| new().pax(b'x', &[("GNU.sparse.major", b"1")]).file("s", "x"),
                Refused("sparse files"),
            ),
            (
                "two_extended",
                |_| new().pax(b'x', &[("path", b"a")]).pax(b'x', &[("path", b"b")]).file("c", ""),
                Refused("two extended headers"),
            ),
            (
                "two_long_names",
                |_| new().long(b'L', "a").long(b'L', "b").file("c", ""),
                Refused("two long names"),
            ),
            (
                "extended_then_nothing",
                |_| new().pax(b'x', &[("path", b"a")]),
                Refused("ends after an extended header"),
            ),
            (
                "global_path",
                |_| new().pax(b'g', &[("path", b"../evil")]).file("a", ""),
                Refused("global extended header"),
            ),
            (
                "zero_in_name",
                |_| new().pax(b'x', &[("path", b"a\0b")]).file("c", ""),
                Refused("a zero byte"),
            ),
            (
                "long_component",
                |_| new().long(b'L', &"n".repeat(256)).file("c", ""),
                Refused("more than 255 bytes"),
            ),
            (
                "long_component_in_link",
                |_| new().long(b'K', &"n".repeat(256)).symlink("l", "?").file("l/x", ""),
                Refused("more than 255 bytes"),
            ),
            (
                "deep",
                |_| new().long(b'L', &"d/".repeat(256)).directory("c"),
                Refused("passes the limit path_depth_max: 255"),
            ),
            (
                "deep_through_links",
                |_| {
                    new()
                        .long(b'L', &"d/".repeat(200))
                        .directory("c")
                        .long(b'K', &"d/".repeat(200))
                        .symlink("l", "?")
                        .long(b'L', &format!("l/{}", "d/".repeat(200)))
                        .directory("c")
                },
                Refused("passes the limit path_depth_max: 255"),
            ),
            (
                "long_path",
                |_| new().long(b'L', &format!("{}/", "n".repeat(255)).repeat(17)).directory("c"),
                Refused("passes the limit path_bytes_max: 4095"),
            ),
            (
                "file_as_parent",
                |_| new().file("f", "x").file("f/x", "x"),
                Refused("`f` is not a directory"),
            ),
        ],
    );
}

/// T52: bytes that end where no archive ends.
#[test]
fn truncated_bytes_are_errors() {
    twice("truncated_bytes_are_errors", |directory| {
        let tar = new().file("a", &"x".repeat(700)).end();
        let mut seen = Vec::new();
        for length in [0, 1, 511, 513, 600, 1535] {
            let cut = &tar[..length];
            let opened = File::open(directory).unwrap();
            let error = unpack_layer(&plain(cut), &mut &*cut, &Limits::default(), opened.as_fd());
            let text = chain(&error.unwrap_err());
            assert!(text.contains("empty") || text.contains("ends in the middle"), "{text}");
            seen.push(text);
            let _ = fs::remove_file(directory.join("a"));
        }
        seen
    });
}

/// The cases that `tar`'s own `unpack` gets wrong and that real images have.
#[test]
fn honest_layers_come_out_whole() {
    check(
        "honest_layers_come_out_whole",
        &[
            (
                "var_run",
                |_| {
                    new()
                        .directory("run")
                        .directory("var")
                        .symlink("var/run", "/run")
                        .file("var/run/pid", "1")
                },
                Tree(&[
                    "run/ 755 @1000",
                    "run/pid 644 @1000 \"1\"",
                    "var/ 755 @1000",
                    "var/run -> /run @1000",
                ]),
            ),
            (
                "merged_usr",
                |_| {
                    new()
                        .directory("usr/lib")
                        .symlink("lib", "usr/lib")
                        .directory("lib/sub")
                        .file("lib/sub/x", "x")
                        .file("lib/y", "y")
                },
                Tree(&[
                    "lib -> usr/lib @1000",
                    "usr/ 755 @0",
                    "usr/lib/ 755 @1000",
                    "usr/lib/sub/ 755 @1000",
                    "usr/lib/sub/x 644 @1000 \"x\"",
                    "usr/lib/y 644 @1000 \"y\"",
                ]),
            ),
            (
                "file_replaces_directory",
                |_| new().directory("a").directory("a/b").file("a/b/c", "x").file("a", "y"),
                Tree(&["a 644 @1000 \"y\""]),
            ),
            (
                "directory_replaces_file",
                |_| new().file("a", "y").directory("a").file("a/b", "x"),
                Tree(&["a/ 755 @1000 user.overlay.opaque=y", "a/b 644 @1000 \"x\""]),
            ),
            (
                "later_entries_hold",
                |_| {
                    new()
                        .file("a", "1")
                        .file("a", "2")
                        .directory("d")
                        .file("d/f", "x")
                        .header(Header::new(b'5', "d").mode(0o700))
                },
                Tree(&["a 644 @1000 \"2\"", "d/ 700 @1000", "d/f 644 @1000 \"x\""]),
            ),
            (
                "replaced_and_made_again",
                |_| {
                    new()
                        .header(Header::new(b'5', "a/b").mode(0o711))
                        .file("a", "x")
                        .file("a/b/c", "y")
                },
                Refused("`a` is not a directory"),
            ),
            (
                "closed_directories",
                |_| {
                    new()
                        .header(Header::new(b'5', "a").mode(0))
                        .header(Header::new(b'5', "a/b").mode(0))
                        .sized(Header::new(b'0', "a/b/c").mode(0), b"x")
                },
                Tree(&["a/ 0 @1000", "a/b/ 0 @1000", "a/b/c 0 @1000 \"x\""]),
            ),
            (
                "closed_directories_through_link",
                |_| {
                    new()
                        .header(Header::new(b'5', "a").mode(0))
                        .header(Header::new(b'5', "a/b").mode(0))
                        .symlink("l", "a/b")
                        .header(Header::new(b'5', "l/c").mode(0))
                },
                Tree(&["a/ 0 @1000", "a/b/ 0 @1000", "a/b/c/ 0 @1000", "l -> a/b @1000"]),
            ),
            (
                "sticky",
                |_| {
                    new()
                        .header(Header::new(b'5', "tmp").mode(0o1777))
                        .header(Header::new(b'5', "g").mode(0o2775))
                        .file("g/f", "")
                },
                Tree(&["g/ 2775 @1000", "g/f 644 @1000 \"\"", "tmp/ 1777 @1000"]),
            ),
            (
                "gnu_long_names",
                |_| {
                    new()
                        .long(b'K', "target/that/could/be/long")
                        .long(b'L', "dir/name")
                        .symlink("?", "?")
                },
                Tree(&["dir/ 755 @0", "dir/name -> target/that/could/be/long @1000"]),
            ),
            (
                "pax_fields",
                |_| {
                    new()
                        .pax(b'g', &[("comment", b"0123456789abcdef")])
                        .pax(
                            b'x',
                            &[
                                ("path", b"a\nb"),
                                ("mtime", b"1234.5"),
                                ("size", b"3"),
                                ("uid", b"7"),
                            ],
                        )
                        .header(Header::new(b'0', "?"))
                        .content(b"xyz")
                },
                Tree(&["a\\nb 755 @1234 \"xyz\""]),
            ),
            (
                "ustar_prefix",
                |_| new().header(Header::new(b'5', "name").bytes(345, b"some/prefix")),
                Inside("some/prefix/name/ 755 @1000"),
            ),
            (
                "v7_directory",
                |_| new().header(Header::new(0, "d/")).sized(Header::new(0, "f"), b"x"),
                Tree(&["d/ 755 @1000", "f 755 @1000 \"x\""]),
            ),
            (
                "names_that_are_not_utf8",
                |_| new().sized(Header::new(b'0', b"\xff\xfe"), b"x"),
                Tree(&["\\xff\\xfe 755 @1000 \"x\""]),
            ),
            (
                "bytes_after_the_end",
                |_| new().file("a", "x").content(&[0; 1024]).file("ignored", "x"),
                Tree(&["a 644 @1000 \"x\""]),
            ),
        ],
    );
}

/// Names in messages cannot write to the terminal.
#[test]
fn refusals_escape_names() {
    check(
        "refusals_escape_names",
        &[("escape", |_| new().file("\x1b[2J/../x", ""), Refused("`\\u{1b}[2J/../x`"))],
    );
}
