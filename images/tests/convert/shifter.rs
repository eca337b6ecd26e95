//! An image in a Shifter image directory: read back by the rules of the format, or refused by name.

use std::fs;

use ric_images::{
    ConvertError, ConvertOptions, Existing, Reference, ShifterFormat, ShifterMeta, Target,
};
use serde_json::{Value, json};

use super::layer_archive::{Archive, Header};
use super::layer_twice::{scratch, twice};
use super::site::Site;

fn layer() -> Vec<u8> {
    Archive::new()
        .directory("bin")
        .sized(Header::new(b'0', "bin/set-id").mode(0o4755).uid(7).gid(8), b"s")
        .header(Header::new(b'1', "bin/linked").link("bin/set-id"))
        .end()
}

fn target(site: &Site) -> Target {
    let folder = site.path("images");
    fs::create_dir_all(&folder).unwrap();
    Target::Shifter(folder)
}

#[test]
fn shifter_gets_the_tree_and_what_to_run_for_everyone() {
    twice("shifter::shifter_gets_the_tree_and_what_to_run_for_everyone", |directory| {
        let site = Site::new(directory);
        let defaults = json!({
            "Env": ["PATH=/bin", "A=b\"a$r'c`d\\e", "E="], "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["echo \"$A\" \\"], "WorkingDir": "/srv", "User": "7", "Labels": {"a": "b"},
        });
        let image = site.layout("image", &[layer()], &defaults);
        let manifest = site.resolve(&image);
        let converted = site.convert(&image, &target(&site));
        assert_eq!(converted.left_out.settings, ["User", "Labels", "Env E"]);
        let name = converted.name.unwrap();
        let id = name.strip_prefix("shifter:id:").unwrap();
        assert_eq!(format!("sha256:{id}"), manifest.identity.to_string());
        let file = |kind| site.path("images").join(format!("{id}.{kind}"));
        let meta = ShifterMeta::parse(&fs::read(file("meta")).unwrap()).unwrap();
        assert_eq!(meta.format, ShifterFormat::Squashfs);
        let config = manifest.config;
        assert_eq!((meta.entrypoint, meta.command), (config.entrypoint, config.command));
        assert_eq!((meta.workdir, meta.variables), (config.workdir, config.variables));
        assert!(meta.users.is_empty() && meta.groups.is_empty());
        let tree = site.tree(&Reference::Squashfs(file("squashfs")));
        assert_eq!(tree, site.tree(&image));
        tree
    });
}

/// What Shifter would read as something else is refused before anything is written.
#[test]
fn what_shifter_has_no_words_for_is_refused_by_name() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let cases: [(Value, &str); 4] = [
        (json!({"Cmd": ["it's"]}), "a word of the command, `it's`"),
        (json!({"Env": ["A=b\nENTRY: ['x']"]}), "the variable `A=b\\nENTRY: ['x']`"),
        (json!({"Env": ["A=b\\"]}), "the variable `A=b\\`"),
        (json!({"WorkingDir": "/srv "}), "the working directory `/srv `"),
    ];
    for (number, (defaults, expected)) in cases.into_iter().enumerate() {
        let image = site.layout(&format!("image-{number}"), &[layer()], &defaults);
        let error = site.try_convert(&image, &target(&site), ConvertOptions::default());
        let error = error.unwrap_err();
        assert!(matches!(error, ConvertError::Unholdable { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(fs::read_dir(site.path("images")).unwrap().count(), 0);
    }
}

#[test]
fn an_image_of_the_directory_stays_unless_it_may_go() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let image = site.layout("image", &[layer()], &json!({}));
    let target = target(&site);
    let name = site.convert(&image, &target).name.unwrap();
    let id = name.strip_prefix("shifter:id:").unwrap();
    fs::remove_file(site.path("images").join(format!("{id}.squashfs"))).unwrap();
    fs::write(site.path("images").join(format!("{id}.meta")), "mine").unwrap();
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    assert!(matches!(error, ConvertError::Exists { .. }), "{error}");
    assert_eq!(fs::read_dir(site.path("images")).unwrap().count(), 1);
    let options = ConvertOptions { existing: Existing::Replace, ..ConvertOptions::default() };
    site.try_convert(&image, &target, options).unwrap();
    assert_eq!(fs::read_dir(site.path("images")).unwrap().count(), 2);
}
