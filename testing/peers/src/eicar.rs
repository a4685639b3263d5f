//! The EICAR test file: harmless, and reported as infected by every engine.

/// The test file reversed, so that a virus scanner on a developer's machine removes neither this
/// source file nor the binary.
const BACKWARDS: &str = r"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X";

/// The 68 bytes of the test file.
#[must_use]
pub fn eicar() -> Vec<u8> {
    BACKWARDS.bytes().rev().collect()
}

/// Two signature files that match only the test file: by its hash when it is a file of its own, by
/// its bytes when it is inside something else.
#[must_use]
pub fn signatures() -> [(&'static str, String); 2] {
    use md5::{Digest, Md5};
    let sample = eicar();
    let hash = hex(&Md5::digest(&sample));
    [
        ("eicar.hdb", format!("{hash}:{}:Eicar-Test-Signature\n", sample.len())),
        ("eicar.ndb", format!("Eicar-Test-Signature:0:*:{}\n", hex(&sample))),
    ]
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every write");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_has_its_well_known_hash() {
        let [(_, hash), _] = signatures();
        assert_eq!(hash, "44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Signature\n");
    }
}
