//! Samples with a known verdict, which test an engine.

use bytes::Bytes;

/// The EICAR test file backwards, so that scanners do not find it in this source or the binary.
/// Source: <https://www.eicar.org/download-anti-malware-testfile/>
const EICAR_BACKWARDS: &[u8; 68] =
    b"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\\4[PA@%P!O5X";

/// More levels than clamd's `MaxRecursion` allows at most.
const NESTING: usize = 110;

/// The EICAR test file.
pub(crate) fn eicar() -> Bytes {
    EICAR_BACKWARDS.iter().rev().copied().collect()
}

/// A harmless text, a new one each time, so that no cache knows it.
pub(super) fn harmless() -> Bytes {
    let id = uuid::Uuid::new_v4().simple();
    format!("A harmless text that a virus scanner has to call clean. {id}\n").into()
}

/// A zip whose only member is marked as encrypted; `AlertEncrypted` makes clamd report it.
pub(super) fn encrypted_zip() -> Bytes {
    // An encrypted member looks like noise: a header of 12 bytes, then the data.
    let noise: Vec<u8> = (0u8..48).map(|n| n.wrapping_mul(151).wrapping_add(83)).collect();
    zip("secret.txt", &noise, 1).into()
}

/// A text in more nested zips than clamd unpacks; `AlertExceedsMax` makes clamd report it.
pub(super) fn nested_zip() -> Bytes {
    (0..NESTING).fold(b"deep down".to_vec(), |inner, _| zip("inner.zip", &inner, 0)).into()
}

/// A zip with one stored member. Source: PKWARE's APPNOTE.TXT, 4.3.7, 4.3.12 and 4.3.16.
fn zip(name: &str, data: &[u8], flags: u16) -> Vec<u8> {
    let size = u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes();
    let name_length = u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes();
    // Version needed, flags, method "stored", a time and a date.
    let common = [
        &[20, 0],
        &flags.to_le_bytes()[..],
        &[0, 0, 0, 0, 0x21, 0x50],
        &crc32fast::hash(data).to_le_bytes(),
        &size,
        &size,
        &name_length,
        &[0, 0],
    ]
    .concat();
    let local = [b"PK\x03\x04", common.as_slice(), name.as_bytes(), data].concat();
    let central = [b"PK\x01\x02\x14\x00", common.as_slice(), &[0; 14], name.as_bytes()].concat();
    let lengths = [central.len(), local.len()]
        .map(|length| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", lengths.as_flattened(), &[0, 0]].concat();
    [local, central, end].concat()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_eicar_file_is_the_published_one() {
        let published = [
            0x275a_021b_bfb6_489e_54d4_7189_9f7d_b9d1_u128,
            0x663f_c695_ec2f_e2a2_c453_8aab_f651_fd0f,
        ];
        assert_eq!(Sha256::digest(eicar())[..], published.map(u128::to_be_bytes).concat()[..]);
    }

    #[test]
    fn a_zip_has_its_parts_where_its_directory_says() {
        let zip = zip("n", b"data", 0);
        let end = &zip[zip.len() - 22..];
        let at = |i: usize| u32::from_le_bytes(end[i..i + 4].try_into().unwrap()) as usize;
        let (size, offset) = (at(12), at(16));
        assert_eq!(&zip[offset..offset + 4], b"PK\x01\x02");
        assert_eq!(offset + size + 22, zip.len());
        assert_eq!(&zip[31..35], b"data");
    }
}
