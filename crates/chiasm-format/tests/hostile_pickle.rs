//! Pickles that nobody should have written. Each is an error; none costs more than its own size.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use chiasm_format::FormatError;
use chiasm_format::pickle::{Limits, Value, parse};
use common::{call, cat, global, int, program, text, tuple};
use proptest::prelude::*;

fn nested(open: &[u8], close: &[u8], depth: usize) -> Vec<u8> {
    cat(&[&open.repeat(depth), &close.repeat(depth), b"."])
}

/// Lists of ten times the list before, `levels` deep.
fn laughs(levels: usize) -> Vec<u8> {
    let mut code = b"\x80\x02]q\x00K\x01a".to_vec();
    for level in 1..=levels {
        let (this, before) = (level as u8, level as u8 - 1);
        code.extend(cat(&[
            b"]q",
            &[this],
            b"(",
            &[b'h', before].repeat(10),
            b"e",
        ]));
    }
    cat(&[&code, b"."])
}

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let refused = |module: &str, name: &str| {
        program(&cat(&[
            &global(module, name),
            &tuple(&[text("true")]),
            b"R",
        ]))
    };
    vec![
        // Code.
        ("a shell command", b"cos\nsystem\n(S'true'\ntR.".to_vec()),
        (
            "a shell command by its other name",
            refused("posix", "system"),
        ),
        ("eval", refused("builtins", "eval")),
        ("exec in Python 2", refused("__builtin__", "execfile")),
        ("a process", refused("subprocess", "Popen")),
        ("an import", refused("importlib", "import_module")),
        (
            "attribute access, the usual way around lists",
            refused("builtins", "getattr"),
        ),
        ("apply", refused("__builtin__", "apply")),
        ("a pickle in a pickle", refused("pickle", "loads")),
        (
            "torch's own loader",
            refused("torch.storage", "_load_from_bytes"),
        ),
        ("torch.hub", refused("torch.hub", "load")),
        ("numpy's loader", refused("numpy", "load")),
        ("a dotted name", refused("builtins", "dict.fromkeys")),
        (
            "a module under an allowed one",
            refused("torch._utils.os", "system"),
        ),
        (
            "a callback that is called",
            refused("pytorch_lightning.callbacks.x", "Callback"),
        ),
        (
            "a callback with a dotted name",
            refused("pytorch_lightning.callbacks.x", "os.system"),
        ),
        (
            "a global from the stack",
            cat(&[b"\x80\x04\x8c\x02os\x8c\x06system\x93)R."]),
        ),
        (
            "a name that is mentioned, not called",
            program(&global("os", "system")),
        ),
        (
            "an instance of Python 2",
            b"(S'true'\nios\nsystem\n.".to_vec(),
        ),
        (
            "an instance of Python 2 from the stack",
            b"(cos\nsystem\nS'true'\no.".to_vec(),
        ),
        (
            "a call of a class that is only a name",
            program(&call(&global("numpy", "ndarray"), &[])),
        ),
        (
            "a call of a text",
            program(&cat(&[&text("os.system"), b")R"])),
        ),
        (
            "a call without a tuple",
            program(&cat(&[&global("builtins", "set"), b"]R"])),
        ),
        (
            "a shell command through copyreg",
            program(&call(
                &global("copyreg", "_reconstructor"),
                &[
                    global("os", "system"),
                    global("builtins", "object"),
                    b"N".to_vec(),
                ],
            )),
        ),
        (
            "copyreg in itself",
            program(&call(
                &global("copyreg", "_reconstructor"),
                &[
                    global("copyreg", "_reconstructor"),
                    global("builtins", "object"),
                    b"N".to_vec(),
                ],
            )),
        ),
        (
            "an instance with keywords",
            program(b"cargparse\nNamespace\n)}(X\x01\x00\x00\x00aNu\x92"),
        ),
        ("an extension code", program(b"\x82\x01")),
        ("a buffer outside the file", b"\x80\x05\x97.".to_vec()),
        // Lengths.
        ("nothing", Vec::new()),
        ("a protocol and nothing", b"\x80\x02".to_vec()),
        ("only a stop", b".".to_vec()),
        ("a protocol of the future", b"\x80\x06N.".to_vec()),
        ("text of 4 GiB", b"\x80\x02X\xff\xff\xff\xffabc.".to_vec()),
        (
            "text of 2^64 bytes",
            b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.".to_vec(),
        ),
        (
            "bytes of 2^63 bytes",
            b"\x80\x04\x8e\x00\x00\x00\x00\x00\x00\x00\x80abc.".to_vec(),
        ),
        (
            "a byte array of 1 TiB",
            b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00abc.".to_vec(),
        ),
        ("a string of -1 bytes", b"T\xff\xff\xff\xffabc.".to_vec()),
        (
            "a whole number of -2^31 bytes",
            b"\x80\x02\x8b\x00\x00\x00\x80.".to_vec(),
        ),
        (
            "a whole number of 2 GiB",
            b"\x80\x02\x8b\xff\xff\xff\x7f\x01.".to_vec(),
        ),
        (
            "a frame of 2^64 bytes",
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.".to_vec(),
        ),
        (
            "a text that is cut",
            b"\x80\x02X\x08\x00\x00\x00abc".to_vec(),
        ),
        ("a float that is cut", b"\x80\x02G\x00\x00\x00.".to_vec()),
        ("a line without an end", b"I12345".to_vec()),
        (
            "a number of 10,000 digits",
            cat(&[b"L", &b"9".repeat(10_000), b"L\n."]),
        ),
        (
            "a name of 10,000 characters",
            cat(&[b"c", &b"a".repeat(10_000), b"\nb\n."]),
        ),
        // The stack.
        ("a pop of nothing", b"0N.".to_vec()),
        ("a stop below a mark", b"N(.".to_vec()),
        ("a list without a mark", b"l.".to_vec()),
        ("a duplicate of nothing", b"2.".to_vec()),
        ("an append to nothing", b"Na.".to_vec()),
        ("an append to a number", b"K\x01K\x02a.".to_vec()),
        ("an entry of a list", b"]K\x01K\x02s.".to_vec()),
        ("a key without a value", b"}(K\x01u.".to_vec()),
        ("a dictionary of three", b"(K\x01K\x02K\x03d.".to_vec()),
        ("state of a number", b"K\x01}b.".to_vec()),
        ("a tuple below its mark", b"K\x01(\x85.".to_vec()),
        ("a memo entry that does not exist", b"h\x07.".to_vec()),
        ("a memo index that is no number", b"gfoo\n.".to_vec()),
        ("a memo index below zero", b"Np-1\n.".to_vec()),
        (
            "a memo index of 40 digits",
            cat(&[b"Np", &b"9".repeat(40), b"\n."]),
        ),
        ("an unknown instruction", b"\xff.".to_vec()),
        ("a number that is none", b"Iabc\n.".to_vec()),
        ("a float that is none", b"Fabc\n.".to_vec()),
        ("a string without quotes", b"Sabc\n.".to_vec()),
        ("an escape that is cut", b"V\\u12\n.".to_vec()),
        // Shapes.
        ("a list that holds itself", b"]q\x00h\x00a.".to_vec()),
        (
            "a dictionary that holds itself",
            b"}q\x00K\x01h\x00s.".to_vec(),
        ),
        (
            "an object whose state is itself",
            b"cargparse\nNamespace\n)\x81q\x00h\x00b.".to_vec(),
        ),
        (
            "two lists that hold each other",
            b"]q\x00]q\x01h\x00ah\x01a.".to_vec(),
        ),
        ("a billion laughs", laughs(9)),
        ("more laughs than a number can count", laughs(200)),
        (
            "100,000 lists in each other",
            cat(&[b"]", &b"]".repeat(100_000), &b"a".repeat(100_000), b"."]),
        ),
        (
            "100,000 tuples in each other",
            cat(&[b")", &b"\x85".repeat(100_000), b"."]),
        ),
        ("100,000 marks", nested(b"(", b"t", 100_000)),
    ]
}

#[test]
fn hostile_pickles_are_errors() {
    let corpus = corpus();
    assert!(corpus.len() >= 30);
    for (reason, bytes) in corpus {
        let result = parse(&bytes, &Limits::default());
        assert!(result.is_err(), "{reason} was read");
    }
}

#[test]
fn the_offending_global_is_named() {
    for (module, name) in [
        ("os", "system"),
        ("torch.storage", "_load_from_bytes"),
        ("a\u{1b}[2J", "b"),
    ] {
        let error = parse(&program(&global(module, name)), &Limits::default()).unwrap_err();
        assert!(matches!(error, FormatError::Global { .. }));
        let shown = error.to_string();
        assert!(shown.contains(name) && !shown.contains('\u{1b}'), "{shown}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn limits_are_kept() {
    let many = cat(&[b"(", &b"N".repeat(1000), b"l."]);
    let refused = |limits: Limits| {
        let error = parse(&many, &limits).unwrap_err();
        assert!(matches!(error, FormatError::TooLarge { .. }), "{error}");
    };
    refused(Limits {
        bytes: 100,
        ..Limits::default()
    });
    refused(Limits {
        values: 1000,
        ..Limits::default()
    });
    assert!(
        parse(
            &many,
            &Limits {
                bytes: 1003,
                values: 1001
            }
        )
        .is_ok()
    );
}

#[test]
fn arrays_must_fit_their_bytes() {
    let dtype = |name: &str| {
        let made = call(&global("numpy", "dtype"), &[text(name), int(0), int(1)]);
        cat(&[&made, &tuple(&[int(3), text("<"), b"N".to_vec()]), b"b"])
    };
    let array = |name: &str, shape: &[i64], bytes: &[u8]| {
        let shell = call(
            &global("numpy.core.multiarray", "_reconstruct"),
            &[global("numpy", "ndarray"), common::ints(&[0]), text("b")],
        );
        let data = cat(&[b"U", &[bytes.len() as u8], bytes]);
        let state = tuple(&[
            int(1),
            common::ints(shape),
            dtype(name),
            b"\x89".to_vec(),
            data,
        ]);
        program(&cat(&[&shell, &state, b"b"]))
    };
    let read = |bytes: &[u8]| {
        let pickle = parse(bytes, &Limits::default()).unwrap();
        pickle.root().array().unwrap()
    };
    assert_eq!(
        read(&array("i2", &[1, 2], &[1, 0, 2, 0]))
            .unwrap()
            .to_i64()
            .unwrap(),
        [1, 2]
    );
    for (reason, bytes) in [
        (
            "a shape larger than its bytes",
            array("i2", &[1000], &[1, 0]),
        ),
        (
            "a shape smaller than its bytes",
            array("i2", &[1], &[1, 0, 2, 0]),
        ),
        (
            "a shape that overflows",
            array("f8", &[i64::MAX, i64::MAX], &[]),
        ),
        ("a shape below zero", array("f8", &[-1], &[])),
        ("more axes than anybody has", array("u1", &[1; 17], &[1])),
        ("objects", array("O8", &[1], &[0; 8])),
        ("texts", array("U1", &[1], &[0; 4])),
        ("records", array("V4", &[1], &[0; 4])),
    ] {
        assert!(read(&bytes).is_err(), "{reason} was read");
    }
}

/// Number of values and bytes of text on a walk without any care.
fn walk(value: Value<'_>) -> u64 {
    let own = 1 + value.as_bytes().map_or(0, |bytes| bytes.len() as u64);
    let _ = (value.describe(), value.as_f64(), value.array());
    let items: u64 = value.items().map(walk).sum();
    let entries: u64 = value
        .entries()
        .map(|(key, value)| walk(key) + walk(value))
        .sum();
    own + items + entries
}

#[test]
fn sharing_that_people_use_is_read() {
    let pickle = parse(&laughs(3), &Limits::default()).unwrap();
    assert_eq!(walk(pickle.root()), 2111);
}

proptest! {
    #![proptest_config(common::cases(256))]

    #[test]
    fn any_bytes_are_a_pickle_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(pickle) = parse(&bytes, &Limits::default()) {
            walk(pickle.root());
        }
    }

    /// Random programs of instructions that exist get much further than random bytes.
    #[test]
    fn any_instructions_are_a_pickle_or_an_error(
        steps in prop::collection::vec((0_usize..40, any::<u8>()), 0..200),
    ) {
        let ops: [&[u8]; 40] = [
            b"(", b"N", b"]", b"}", b")", b"\x8f", b"\x88", b"K\x01", b"a", b"s", b"e", b"u", b"t", b"l",
            b"d", b"\x85", b"\x86", b"\x87", b"0", b"1", b"2", b"q\x00", b"q\x01", b"h\x00", b"h\x01",
            b"\x94", b"U\x02ab", b"C\x02ab", b"\x8c\x02ab", b"\x90", b"\x91", b"R", b"\x81", b"b", b"Q",
            b"ccollections\nOrderedDict\n", b"cargparse\nNamespace\n", b"cbuiltins\nset\n",
            b"c_codecs\nencode\n", b"cnumpy\ndtype\n",
        ];
        let mut code: Vec<u8> = steps.iter().flat_map(|(step, _)| ops[*step]).copied().collect();
        code.push(b'.');
        if let Ok(pickle) = parse(&code, &Limits::default()) {
            prop_assert!(walk(pickle.root()) <= (1 << 20) + 64 * code.len() as u64);
        }
    }

    #[test]
    fn damaged_pickles_are_a_pickle_or_an_error(
        protocol in 0_u8..6,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let name = format!("tests/samples/values_protocol_{protocol}.pkl");
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut bytes = std::fs::read(folder.join(name)).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(pickle) = parse(&bytes, &Limits::default()) {
            walk(pickle.root());
        }
    }
}
