// What every program here shares: its arguments, and figures as JSON lines. A line is flushed as soon as it is known,
// so that a run cut short keeps what it had measured. bench/cuda/records.py states and checks the keys.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bittersweet::bench {

class Record {
 public:
  Record(std::string_view section, std::string_view name) { text("section", section).text("case", name); }

  Record& text(std::string_view key, std::string_view value) { return raw(key, quoted(value)); }
  Record& flag(std::string_view key, bool value) { return raw(key, value ? "true" : "false"); }
  Record& count(std::string_view key, std::int64_t value) { return raw(key, std::to_string(value)); }
  Record& number(std::string_view key, double value) {
    if (!std::isfinite(value)) throw std::runtime_error("the figure '" + std::string(key) + "' is not a number");
    char digits[32];
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    return raw(key, {digits, end});
  }
  // A figure with the goal that it is judged by.
  Record& judged(std::string_view key, double value, double bound) {
    return number(key, value).number("bound", bound).flag("kept", value <= bound);
  }

  std::string line() const { return "{" + fields_ + "}"; }

 private:
  Record& raw(std::string_view key, const std::string& value) {
    fields_ += (fields_.empty() ? "" : ", ") + quoted(key) + ": " + value;
    return *this;
  }
  static std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return out + '"';
  }

  std::string fields_;
};

struct Arguments {
  bool dry = false;      // touch no device: small inputs on the host, the oracles, the records
  bool profile = false;  // one call between the marks that a profiler waits for, no timing
  double scale = 1;      // of the sizes
  std::string out;       // file of the records; empty: standard output
  std::vector<std::string> sections;

  bool wants(std::string_view section) const {
    return sections.empty() || std::find(sections.begin(), sections.end(), section) != sections.end();
  }
};

// [--dry] [--profile] [--scale X] [--out FILE] [SECTION...]
inline Arguments parse(int count, char** words, const std::vector<std::string>& known) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&]() -> std::string {
      if (++i == count) throw std::invalid_argument(word + " needs a value");
      return words[i];
    };
    if (word == "--dry") {
      arguments.dry = true;
    } else if (word == "--profile") {
      arguments.profile = true;
    } else if (word == "--scale") {
      arguments.scale = std::atof(value().c_str());
      if (!(arguments.scale > 0 && arguments.scale <= 1)) throw std::invalid_argument("--scale: above 0, up to 1");
    } else if (word == "--out") {
      arguments.out = value();
    } else if (std::find(known.begin(), known.end(), word) != known.end()) {
      arguments.sections.push_back(word);
    } else {
      std::string names;
      for (const std::string& name : known) names += " " + name;
      throw std::invalid_argument("'" + word + "' is no option and no section; sections are:" + names);
    }
  }
  return arguments;
}

class Records {
 public:
  explicit Records(const Arguments& arguments) : dry_(arguments.dry) {
    if (arguments.out.empty()) return;
    file_.open(arguments.out, std::ios::app);
    if (!file_) throw std::runtime_error("--out " + arguments.out + ": cannot be written");
  }

  void add(Record record) {
    if (dry_) record.flag("dry", true);
    (file_.is_open() ? static_cast<std::ostream&>(file_) : std::cout) << record.line() << std::endl;
    ++written_;
  }

  // A comparison with an oracle: it decides the exit status.
  void verdict(Record record, bool right, std::string_view found = "") {
    record.flag("right", right);
    if (!right) record.text("found", found);
    wrong_ += !right;
    add(std::move(record));
  }

  // A case that threw. The cases after it still run.
  void failure(std::string_view section, std::string_view name, std::string_view what) {
    ++wrong_;
    add(Record(section, name).text("error", what));
  }

  bool dry() const { return dry_; }
  int status() const { return written_ == 0 ? 3 : wrong_ ? 1 : 0; }

 private:
  bool dry_;
  std::ofstream file_;
  int written_ = 0, wrong_ = 0;
};

// Runs one case; an exception becomes a record.
template <class F>
void attempt(Records& records, std::string_view section, std::string_view name, F&& run) {
  try {
    run();
  } catch (const std::exception& error) {
    records.failure(section, name, error.what());
  }
}

// The main of every program: 0 all right, 1 something was wrong, 2 bad arguments or no output, 3 nothing was done.
template <class F>
int run_program(int count, char** words, const std::vector<std::string>& sections, F&& run) {
  try {
    const Arguments arguments = parse(count, words, sections);
    Records records(arguments);
    run(arguments, records);
    return records.status();
  } catch (const std::exception& error) {
    std::cerr << words[0] << ": " << error.what() << '\n';
    return 2;
  }
}

}  // namespace bittersweet::bench
