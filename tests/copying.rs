//! Copying from the mount, from several sources at once, and while sources go.

mod common;

use std::fs;
use std::path::Path;

use common::contents::{MIB, files_below, hash_of, random_file, text_file};
use common::process::tool;
use common::{Network, Node};

/// What `transfers` says of the newest transfer of `path`: each source's name and the bytes that it brought.
fn parts(node: &Node, path: &str) -> Vec<(String, u64)> {
    let transfers = node.json(["transfers"]);
    let all = transfers["transfers"].as_array().unwrap();
    let transfer = all.iter().find(|transfer| transfer["path"] == path).expect("a transfer");
    let part = |source: &serde_json::Value| {
        (source["name"].as_str().unwrap().to_owned(), source["bytes"].as_u64().unwrap())
    };
    transfer["sources"].as_array().unwrap().iter().map(part).collect()
}

#[test]
fn five_nodes_show_one_tree_and_three_sources_deliver_one_file() {
    let size = 512 * MIB;
    let network = Network::new();
    let image = network.path("shares/a/images/disk.img");
    let hash = random_file(&image, size, "disk");
    for name in ["b", "c"] {
        let dir = network.path(format!("shares/{name}/images"));
        fs::create_dir_all(&dir).unwrap();
        fs::hard_link(&image, dir.join("disk.img")).unwrap();
    }
    text_file(&network.path("shares/d/papers/one.txt"), "one\n");
    text_file(&network.path("shares/d/top.txt"), "top\n");
    text_file(&network.path("shares/e/papers/two.txt"), "two\n");
    text_file(&network.path("shares/e/papers/old/three.txt"), "three\n");
    let sources: Vec<Node> =
        ["a", "b", "c", "d", "e"].iter().map(|name| network.source(name, &network.path("shares").join(name))).collect();
    let reader = network.node("reader");
    let mount = reader.mount();
    reader.sees("images/disk.img", 3);
    for path in ["papers/one.txt", "papers/two.txt", "papers/old/three.txt", "top.txt"] {
        reader.sees(path, 1);
    }

    let listed = tool("ls", ["-lR".as_ref(), mount.as_os_str()]).text();
    let expected = ["images/disk.img", "papers/old/three.txt", "papers/one.txt", "papers/two.txt", "top.txt"];
    assert_eq!(files_below(&mount), expected.map(Path::new));
    for path in expected {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        assert_eq!(listed.lines().filter(|line| line.ends_with(&format!(" {name}"))).count(), 1, "{listed}");
    }
    let line = listed.lines().find(|line| line.ends_with(" disk.img")).unwrap();
    assert!(line.starts_with("-r--r--r--") && line.contains(&format!(" {size} ")), "{line}");

    let copy = network.path("copy.img");
    let copied = tool("cp", [mount.join("images/disk.img").as_os_str(), copy.as_os_str()]);
    eprintln!("512 MiB from three sources: {:.1?}", copied.took);
    assert_eq!(hash_of(&copy), hash);
    assert_eq!(reader.stat("images/disk.img").unwrap().root.unwrap().to_string(), hash);

    let parts = parts(&reader, "images/disk.img");
    assert_eq!(parts.iter().map(|(_, bytes)| bytes).sum::<u64>(), size, "{parts:?}");
    for name in ["a", "b", "c"] {
        let (_, bytes) = parts.iter().find(|(source, _)| source == name).unwrap();
        // A third each, give or take: no source was left to idle.
        assert!(*bytes > size / 20, "{name} brought too little: {parts:?}");
    }
    assert_eq!(parts.len(), 3, "{parts:?}");
    drop(sources);
}
