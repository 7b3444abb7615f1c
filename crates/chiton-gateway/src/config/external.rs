//! The short forms of an external driver, written out: `external:PATH` in the list of drivers, and the one driver whose
//! socket the command line or the environment names. Both become the table `[compute.driver.ID]` that says the same, before
//! anything is decoded, so that whatever comes later knows one form.

use super::error::{ConfigError, Origin, quote};
use super::keys::DRIVER_SOCKET;
use super::sources::Sources;
use super::tree::{Node, Tree};

/// The kind of drivers that are behind a socket.
pub const EXTERNAL_KIND: &str = "external";

const FLAG: &str = "--compute-driver-socket";
const LIST: &str = "compute.drivers";
const TABLE: &str = "write the socket into a table of its own, [compute.driver.NAME], and list NAME";
/// The longest id (`DriverId`).
const LONGEST: usize = 63;

pub(super) fn write_out(root: &mut Node, sources: &Sources, kinds: &[String], errors: &mut Vec<ConfigError>) {
    let mut tables: Vec<(String, Node)> = Vec::new();
    if let Some(Node { tree: Tree::List(items), .. }) = at_mut(root, &["compute", "drivers"]) {
        for (index, item) in items.iter_mut().enumerate() {
            let Tree::Text(text) = &item.tree else { continue };
            let Some(path) = prefixed(text) else { continue };
            let id = derived_id(path);
            let other = tables.iter().find(|(known, node)| *known == id && !is_text(&node.tree, path));
            let fault = match (sound(path), other) {
                (Err(why), _) => Some((why, "write external:/run/NAME.sock")),
                (Ok(()), Some(_)) => Some((format!("another socket in this list has the id {id:?}, too"), TABLE)),
                (Ok(()), None) => None,
            };
            if let Some((why, cure)) = fault {
                errors.push(error(&item.origin, &format!("{LIST}[{index}]"), &why, cure));
                item.tree = Tree::Bad;
                continue;
            }
            tables.push((id.clone(), Node { origin: item.origin.clone(), tree: Tree::Text(path.to_owned()) }));
            item.tree = Tree::Text(id);
        }
    }
    // The same id twice is said by whoever reads the list.
    for (id, socket) in tables {
        attach(root, &id, socket, kinds, errors);
    }
    named(root, sources, kinds, errors);
}

/// What follows `external:`, in any case of letters.
pub(super) fn prefixed(text: &str) -> Option<&str> {
    let (prefix, path) = text.split_once(':')?;
    prefix.eq_ignore_ascii_case(EXTERNAL_KIND).then_some(path)
}

/// The id of a driver that is known by its socket alone: the file's name without `.sock` or `.socket`, in lower case, with
/// a hyphen for each run of what an id cannot have; `external` where nothing is left.
pub(super) fn derived_id(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let file = [".sock", ".socket"].iter().find_map(|end| file.strip_suffix(end)).unwrap_or(file);
    let mut id = String::new();
    for letter in file.chars() {
        if letter.is_ascii_alphanumeric() {
            id.push(letter.to_ascii_lowercase());
        } else if !id.ends_with('-') {
            id.push('-');
        }
    }
    let id = id.trim_matches('-');
    let id = id.get(..LONGEST).unwrap_or(id).trim_end_matches('-');
    if id.is_empty() { EXTERNAL_KIND.to_owned() } else { id.to_owned() }
}

fn sound(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("an external driver needs the path of its socket, and this one is empty".to_owned());
    }
    if !path.starts_with('/') {
        return Err(format!("the path {} of the driver's socket is not absolute", quote(path)));
    }
    if path.contains('\0') || path.ends_with('/') {
        return Err(format!("{} is no path of a socket", quote(path)));
    }
    Ok(())
}

/// The socket beside the one driver that command line or environment names.
fn named(root: &mut Node, sources: &Sources, kinds: &[String], errors: &mut Vec<ConfigError>) {
    let (origin, path) = match (&sources.flags.driver_socket, sources.env.get(DRIVER_SOCKET)) {
        (Some(path), _) => (Origin::Flag(FLAG), path.to_str().map(str::to_owned)),
        (None, Some(path)) => (Origin::Env(DRIVER_SOCKET.to_owned()), Some(path.clone())),
        (None, None) => return,
    };
    let named = usable(path).and_then(|path| match only_driver(root)? {
        Some(id) => Ok(Some((id, path))),
        None => Ok(None),
    });
    match named {
        Ok(Some((id, path))) => attach(root, &id, Node { origin, tree: Tree::Text(path) }, kinds, errors),
        // The list was reported.
        Ok(None) => {}
        Err(fault) => {
            errors.push(error(&origin, fault.key, &fault.why, &fault.cure));
            // Whatever the list says, it was meant to go with a socket: nothing more is said about it.
            root.set(&["compute", "drivers"], Node { origin, tree: Tree::Bad });
        }
    }
}

/// What is wrong with a socket that stands beside the list.
struct Fault {
    key: &'static str,
    why: String,
    cure: String,
}

const BESIDE: &str = "write --driver NAME --compute-driver-socket /run/NAME.sock";

fn usable(path: Option<String>) -> Result<String, Fault> {
    let why = match path {
        None => "the path of the driver's socket is not valid UTF-8".to_owned(),
        Some(path) => match sound(&path) {
            Ok(()) => return Ok(path),
            Err(why) => why,
        },
    };
    Err(Fault { key: "", why, cure: BESIDE.to_owned() })
}

/// The one driver that command line or environment names; none when what they name was reported as wrong. A list in the
/// file is about other starts than this one.
fn only_driver(root: &Node) -> Result<Option<String>, Fault> {
    let list = root.at(&["compute", "drivers"]).filter(|list| matches!(list.origin, Origin::Env(_) | Origin::Flag(_)));
    let items = match list.map(|list| &list.tree) {
        Some(Tree::List(items)) => items.as_slice(),
        Some(Tree::Bad) => return Ok(None),
        _ => &[],
    };
    let text = |item: &Node| if let Tree::Text(text) = &item.tree { Some(text.clone()) } else { None };
    match items {
        [only] => Ok(text(only)),
        [] => {
            let why = "the socket of an external driver is given, and no name for the driver".to_owned();
            Err(Fault { key: LIST, why, cure: format!("{BESIDE}, or set CHITON_COMPUTE_DRIVERS to the name") })
        }
        several => {
            let names: Vec<String> = several.iter().filter_map(text).map(|name| quote(&name)).collect();
            let why = format!("one socket is given for {} drivers ({})", several.len(), names.join(", "));
            let cure = "name one driver beside it; for several, give each external one a table: \
                        [compute.driver.NAME] socket = \"/run/NAME.sock\"";
            Err(Fault { key: LIST, why, cure: cure.to_owned() })
        }
    }
}

/// Says in a driver's table where its socket is. What else an external driver's table holds stays; a table of a driver of
/// another kind is the file's and gives way to what was said closer to this start.
fn attach(root: &mut Node, id: &str, socket: Node, kinds: &[String], errors: &mut Vec<ConfigError>) {
    let origin = socket.origin.clone();
    if let Some(table) = root.at(&["compute", "driver", id]) {
        let before = table.at(&["socket"]);
        let external = is_external(id, table, kinds);
        let same_place = |node: &Node| node.origin.rank() == origin.rank();
        let clash = if external {
            let Tree::Text(path) = &socket.tree else { return };
            before.is_some_and(|before| same_place(before) && !is_text(&before.tree, path))
        } else {
            same_place(table) && !matches!(table.tree, Tree::Bad)
        };
        if clash {
            let why =
                format!("the driver of this socket would be {id:?}, and [compute.driver.{id}] says something else");
            errors.push(error(&origin, LIST, &why, TABLE));
            return;
        }
        if !external {
            root.set(&["compute", "driver", id], Node::table(origin.clone()));
        }
    }
    let kind = Node { origin, tree: Tree::Text(EXTERNAL_KIND.to_owned()) };
    root.set(&["compute", "driver", id, "kind"], kind);
    root.set(&["compute", "driver", id, "socket"], socket);
}

/// Whether a driver's table is that of an external one: it says so, or it has a socket, and neither it nor its name says
/// another kind.
pub(super) fn is_external(id: &str, table: &Node, kinds: &[String]) -> bool {
    match table.at(&["kind"]).map(|kind| &kind.tree) {
        Some(Tree::Text(kind)) => kind == EXTERNAL_KIND,
        Some(_) => false,
        None if kinds.iter().any(|kind| kind == id) => id == EXTERNAL_KIND,
        None => table.at(&["socket"]).is_some(),
    }
}

fn is_text(tree: &Tree, text: &str) -> bool {
    matches!(tree, Tree::Text(other) if other == text)
}

fn at_mut<'a>(node: &'a mut Node, path: &[&str]) -> Option<&'a mut Node> {
    path.iter().try_fold(node, |node, key| match &mut node.tree {
        Tree::Table(entries) => entries.get_mut(*key),
        _ => None,
    })
}

fn error(origin: &Origin, key: &str, message: &str, cure: &str) -> ConfigError {
    ConfigError {
        origin: origin.clone(),
        key: key.to_owned(),
        message: message.to_owned(),
        cure: Some(cure.to_owned()),
    }
}
