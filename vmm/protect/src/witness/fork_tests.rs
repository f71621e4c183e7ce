//! What a record says of its fork and its witness, as this version and those before write it.

use replication::view::{Record, Standing, WitnessId};
use replication::{ChainHash, EpochId, EpochMark, Fork, Term};

/// As the version before chain hashes wrote it.
const BEFORE: &str = concat!(
    r#"{"register":"01010101010101010101010101010101","number":3,"previous":"02020202020202020202020202020202","#,
    r#""attempt":"03030303030303030303030303030303","standing":"running","primary":{"id":"#,
    r#""04040404040404040404040404040404","kind":"process","location":{"host":"b","machine":"m","boot":"1","#,
    r#""lock":"/run/lock"}},"store":null,"backups":[],"branch":3,"parent":1,"fork":77,"named_dead":[]}"#
);

#[test]
fn record_of_a_version_before_has_a_number_for_its_fork_and_is_written_as_it_was() {
    let record: Record = serde_json::from_str(BEFORE).expect("a record");
    assert_eq!(
        (record.fork, record.parent, record.standing),
        (Some(Fork::Number(EpochId(77))), Some(1), Standing::Running)
    );
    assert_eq!(serde_json::to_string(&record).expect("it is text"), BEFORE);
}

#[test]
fn record_s_fork_is_an_identity() {
    let mark = EpochMark { branch: Term(1), count: EpochId(77), chain: ChainHash([0xab; 16]) };
    let record = Record { fork: Some(Fork::Mark(mark)), ..serde_json::from_str(BEFORE).expect("a record") };
    let text = serde_json::to_string(&record).expect("it is text");
    let fork = r#""fork":{"branch":1,"count":77,"chain":"abababababababababababababababab"}"#;
    assert_eq!(text, BEFORE.replace(r#""fork":77"#, fork));
    assert_eq!(serde_json::from_str::<Record>(&text).expect("a record"), record);
    for wrong in ["-1", "18446744073709551615", r#"{"branch":1,"count":77}"#, r#"{"branch":1,"count":77,"chain":"ab"}"#]
    {
        let text = BEFORE.replace(r#""fork":77"#, &format!(r#""fork":{wrong}"#));
        assert!(serde_json::from_str::<Record>(&text).is_err(), "{wrong}");
    }
}

#[test]
fn record_names_its_witness_in_etcd_s_own_digits_and_one_of_a_directory_none() {
    let record = Record { witness: Some(WitnessId(0xc_df81)), ..serde_json::from_str(BEFORE).expect("a record") };
    let text = serde_json::to_string(&record).expect("it is text");
    assert_eq!(text, BEFORE.replace(r#""named_dead":[]"#, r#""named_dead":[],"witness":"00000000000cdf81""#));
    assert_eq!(serde_json::from_str::<Record>(&text).expect("a record"), record);
    for wrong in ["cdf81", "00000000000CDF8G", "+000000000cdf81f"] {
        assert!(serde_json::from_str::<Record>(&text.replace("00000000000cdf81", wrong)).is_err(), "{wrong}");
    }
}
